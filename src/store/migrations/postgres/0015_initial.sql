-- The tables of migrations/sqlite up to 0015 as one step, since no PostgreSQL database
-- has ever been older: what each is for is said there, and a test compares the two.
-- From here on every migration is a file of one number in both folders.
--
-- Times are Unix milliseconds, flags are 0 or 1, and whole numbers are BIGINT, so that a
-- row reads the same from both databases. Text sorts by its octets: ids sort by time, here
-- as in the program. Messages, parts, recipients and bodies refer to each other without
-- foreign keys, which would cost a third of an acceptance and lock the rows of their
-- customers; they come and leave together in one transaction, and the audit looks.

-- What SQLite has by itself, so that one text of a statement serves both.
-- The elements of a JSON list; `atom` is the element as text where it is no list.
CREATE FUNCTION json_each(list TEXT) RETURNS TABLE (value JSONB, atom TEXT)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$SELECT element, element #>> '{}' FROM jsonb_array_elements(list::JSONB) AS element$$;

-- The larger and the smaller of two; nothing, if one of them is nothing.
CREATE FUNCTION max(a BIGINT, b BIGINT) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$SELECT CASE WHEN a IS NOT NULL AND b IS NOT NULL THEN greatest(a, b) END$$;
CREATE FUNCTION min(a BIGINT, b BIGINT) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$SELECT CASE WHEN a IS NOT NULL AND b IS NOT NULL THEN least(a, b) END$$;

-- Some of the octets, from the first one named on.
CREATE FUNCTION substr(octets BYTEA, first BIGINT, count BIGINT) RETURNS BYTEA
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$SELECT pg_catalog.substr(octets, first::INT, count::INT)$$;

-- Seconds since 1970.
CREATE FUNCTION unixepoch() RETURNS BIGINT LANGUAGE sql STABLE PARALLEL SAFE
AS $$SELECT floor(extract(epoch FROM now()))::BIGINT$$;

CREATE TABLE meta (
    key   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

CREATE TABLE customer (
    customer_id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    email            TEXT COLLATE "C",
    name             TEXT COLLATE "C",
    suspended_reason TEXT COLLATE "C",
    created_at       BIGINT NOT NULL,
    counted_since    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE account (
    customer_id     TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES customer (customer_id),
    balance         BIGINT,
    balance_read_at BIGINT,
    held            BIGINT NOT NULL DEFAULT 0 CHECK (held >= 0),
    owed            BIGINT NOT NULL DEFAULT 0 CHECK (owed >= 0),
    version         BIGINT NOT NULL DEFAULT 0,
    last_capture    BIGINT NOT NULL DEFAULT 0 CHECK (last_capture >= 0),
    last_entered    BIGINT NOT NULL DEFAULT 0 CHECK (last_entered BETWEEN 0 AND last_capture),
    low_armed       BIGINT NOT NULL DEFAULT 0 CHECK (low_armed IN (0, 1)),
    closed_price    BIGINT NOT NULL DEFAULT 0,
    closed_captured BIGINT NOT NULL DEFAULT 0,
    closed_released BIGINT NOT NULL DEFAULT 0,
    closed_capture  BIGINT NOT NULL DEFAULT 0 CHECK (closed_capture >= 0),
    closed_settled  BIGINT NOT NULL DEFAULT 0 CHECK (closed_settled >= 0),
    closed_refunded BIGINT NOT NULL DEFAULT 0 CHECK (closed_refunded >= 0),
    closed_credited BIGINT NOT NULL DEFAULT 0 CHECK (closed_credited >= 0),
    CHECK ((balance IS NULL) = (balance_read_at IS NULL))
);
CREATE INDEX account_owing ON account (customer_id) WHERE owed > 0;

CREATE TABLE credential (
    username    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    customer_id TEXT COLLATE "C" NOT NULL REFERENCES customer (customer_id),
    secret_hash BYTEA NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    label       TEXT COLLATE "C",
    created_at  BIGINT NOT NULL,
    revoked_at  BIGINT
);
CREATE INDEX credential_customer ON credential (customer_id);

CREATE TABLE sender (
    customer_id TEXT COLLATE "C" NOT NULL REFERENCES customer (customer_id),
    pattern     TEXT COLLATE "C" NOT NULL,
    created_at  BIGINT NOT NULL,
    origin      TEXT COLLATE "C" NOT NULL DEFAULT 'operator' CHECK (origin IN ('operator', 'starter', 'proof')),
    PRIMARY KEY (customer_id, pattern)
);

CREATE TABLE message (
    message_id   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    customer_id  TEXT COLLATE "C" NOT NULL,
    username     TEXT COLLATE "C",
    kind         TEXT COLLATE "C" NOT NULL CHECK (kind IN ('submission', 'bounce', 'notice')),
    reverse_path TEXT COLLATE "C" NOT NULL,
    header_from  TEXT COLLATE "C" NOT NULL,
    subject      TEXT COLLATE "C",
    size         BIGINT NOT NULL,
    body_sha256  TEXT COLLATE "C" NOT NULL,
    unit         TEXT COLLATE "C" NOT NULL CHECK (unit IN ('message', 'recipient')),
    price        BIGINT NOT NULL CHECK (price >= 0),
    captured     BIGINT NOT NULL DEFAULT 0 CHECK (captured >= 0),
    released     BIGINT NOT NULL DEFAULT 0 CHECK (released >= 0),
    accepted_at  BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    final_at     BIGINT,
    closed       BIGINT NOT NULL DEFAULT 0 CHECK (closed >= 0),
    notes        TEXT COLLATE "C",
    capture_no   BIGINT,
    CHECK (captured + released <= price),
    CHECK (final_at IS NULL OR captured + released = price)
);
CREATE INDEX message_customer ON message (customer_id, message_id);

CREATE TABLE part (
    message_id   TEXT COLLATE "C" NOT NULL,
    part_no      BIGINT NOT NULL,
    road         TEXT COLLATE "C" NOT NULL CHECK (road IN ('resend', 'smtp')),
    state        TEXT COLLATE "C" NOT NULL CHECK (state IN ('queued', 'sending', 'sent', 'failed', 'held')),
    attempt      BIGINT NOT NULL DEFAULT 0,
    due_at       BIGINT,
    lease_until  BIGINT,
    key_no       BIGINT NOT NULL DEFAULT 0,
    first_try_at BIGINT,
    unknown      BIGINT NOT NULL DEFAULT 0 CHECK (unknown IN (0, 1)),
    request_hash TEXT COLLATE "C",
    upstream_id  TEXT COLLATE "C",
    last_error   TEXT COLLATE "C",
    PRIMARY KEY (message_id, part_no),
    CHECK ((state = 'queued') = (due_at IS NOT NULL)),
    CHECK ((state = 'sending') = (lease_until IS NOT NULL))
);
CREATE INDEX part_due ON part (due_at) WHERE state = 'queued';
CREATE INDEX part_leased ON part (lease_until) WHERE state = 'sending';
CREATE INDEX part_held ON part (message_id) WHERE state = 'held';

CREATE TABLE recipient (
    message_id  TEXT COLLATE "C" NOT NULL,
    address     TEXT COLLATE "C" NOT NULL,
    part_no     BIGINT NOT NULL,
    ordinal     BIGINT NOT NULL,
    state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('queued', 'sent', 'failed')),
    status      TEXT COLLATE "C",
    reply       TEXT COLLATE "C",
    bounced_at  BIGINT,
    bounce      TEXT COLLATE "C",
    maybe_taken BIGINT NOT NULL DEFAULT 0 CHECK (maybe_taken IN (0, 1)),
    PRIMARY KEY (message_id, address)
);

CREATE TABLE body (
    message_id TEXT COLLATE "C" NOT NULL,
    chunk_no   BIGINT NOT NULL,
    bytes      BYTEA NOT NULL,
    UNIQUE (message_id, chunk_no)
);

CREATE TABLE capture (
    customer_id TEXT COLLATE "C" NOT NULL REFERENCES customer (customer_id),
    number      BIGINT NOT NULL CHECK (number > 0),
    message_id  TEXT COLLATE "C" NOT NULL,
    amount      BIGINT NOT NULL CHECK (amount > 0),
    captured_at BIGINT NOT NULL,
    PRIMARY KEY (customer_id, number)
);

CREATE TABLE entry (
    entry_id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    customer_id      TEXT COLLATE "C" NOT NULL REFERENCES customer (customer_id),
    kind             TEXT COLLATE "C" NOT NULL CHECK (kind IN ('debit', 'credit')),
    first_capture    BIGINT NOT NULL,
    last_capture     BIGINT NOT NULL,
    amount           BIGINT NOT NULL CHECK (amount > 0),
    reason           TEXT COLLATE "C" NOT NULL,
    state            TEXT COLLATE "C" NOT NULL CHECK (state IN ('open', 'done', 'void')),
    tries            BIGINT NOT NULL DEFAULT 0,
    unknown_tries    BIGINT NOT NULL DEFAULT 0,
    opened_at        BIGINT NOT NULL,
    first_unknown_at BIGINT,
    closed_at        BIGINT,
    last_error       TEXT COLLATE "C",
    last_tried_at    BIGINT,
    doubtful_since   BIGINT,
    decided_by       TEXT COLLATE "C" CHECK (decided_by IN ('ledger', 'operator')),
    expires_at       BIGINT,
    version          BIGINT,
    closed           BIGINT NOT NULL DEFAULT 0 CHECK (closed >= 0),
    CHECK (first_capture <= last_capture),
    CHECK ((state = 'open') = (closed_at IS NULL))
);
CREATE UNIQUE INDEX entry_open ON entry (customer_id) WHERE state = 'open';
CREATE INDEX entry_customer ON entry (customer_id, entry_id);

CREATE TABLE gate (
    road         TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (road IN ('resend', 'smtp')),
    reason       TEXT COLLATE "C" NOT NULL,
    since        BIGINT NOT NULL,
    try_again_at BIGINT NOT NULL CHECK (try_again_at >= since)
);

CREATE TABLE webhook (
    source      TEXT COLLATE "C" NOT NULL CHECK (source IN ('dodo', 'resend')),
    webhook_id  TEXT COLLATE "C" NOT NULL,
    type        TEXT COLLATE "C" NOT NULL,
    customer_id TEXT COLLATE "C",
    received_at BIGINT NOT NULL,
    PRIMARY KEY (source, webhook_id)
);

CREATE TABLE checkout (
    token_hash  TEXT COLLATE "C" NOT NULL PRIMARY KEY CHECK (length(token_hash) = 64),
    session_id  TEXT COLLATE "C",
    state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'paid', 'known', 'claimed')),
    customer_id TEXT COLLATE "C" REFERENCES customer (customer_id),
    created_at  BIGINT NOT NULL,
    CHECK ((state = 'pending') = (customer_id IS NULL))
);

CREATE TABLE refund (
    message_id  TEXT COLLATE "C" NOT NULL,
    address     TEXT COLLATE "C" NOT NULL,
    customer_id TEXT COLLATE "C" NOT NULL REFERENCES customer (customer_id),
    amount      BIGINT NOT NULL CHECK (amount > 0),
    state       TEXT COLLATE "C" NOT NULL CHECK (state IN
                    ('waiting', 'due', 'released', 'credited', 'capped', 'expired', 'refused')),
    entry_id    TEXT COLLATE "C",
    voids       BIGINT NOT NULL DEFAULT 0,
    reason      TEXT COLLATE "C",
    decided_at  BIGINT NOT NULL,
    PRIMARY KEY (message_id, address),
    CHECK ((state = 'credited') <= (entry_id IS NOT NULL)),
    CHECK (state IN ('due', 'credited') OR entry_id IS NULL)
);
CREATE INDEX refund_open ON refund (customer_id) WHERE state = 'waiting' OR state = 'due';
CREATE INDEX refund_entry ON refund (entry_id) WHERE entry_id IS NOT NULL;
CREATE INDEX refund_customer ON refund (customer_id, decided_at);

CREATE TABLE decision (
    message_id TEXT COLLATE "C" NOT NULL REFERENCES message (message_id),
    number     BIGINT NOT NULL CHECK (number > 0),
    decided_at BIGINT NOT NULL,
    choice     TEXT COLLATE "C" NOT NULL CHECK (choice IN ('retry', 'cancel')),
    via        TEXT COLLATE "C" NOT NULL CHECK (via IN ('command', 'http')),
    held_parts BIGINT NOT NULL CHECK (held_parts >= 0),
    PRIMARY KEY (message_id, number)
);

CREATE INDEX entry_range ON entry (customer_id, first_capture);
CREATE INDEX entry_settled ON entry (closed_at) WHERE kind = 'debit' AND state = 'done' AND closed < amount;
CREATE INDEX entry_closed ON entry (closed_at) WHERE state <> 'open';
CREATE INDEX webhook_received ON webhook (received_at);
CREATE INDEX checkout_created ON checkout (created_at);

CREATE TABLE idempotency_key (
    customer_id TEXT COLLATE "C" NOT NULL REFERENCES customer (customer_id),
    key         TEXT COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 256),
    fingerprint TEXT COLLATE "C" NOT NULL CHECK (length(fingerprint) = 64),
    messages    BIGINT NOT NULL CHECK (messages > 0),
    expires_at  BIGINT NOT NULL,
    PRIMARY KEY (customer_id, key)
);

CREATE TABLE idempotency_recipient (
    customer_id TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    address     TEXT COLLATE "C" NOT NULL,
    message_id  TEXT COLLATE "C" NOT NULL REFERENCES message (message_id) ON DELETE CASCADE,
    number      BIGINT NOT NULL CHECK (number > 0),
    PRIMARY KEY (customer_id, key, address),
    FOREIGN KEY (customer_id, key) REFERENCES idempotency_key (customer_id, key) ON DELETE CASCADE
);
CREATE INDEX idempotency_key_expires ON idempotency_key (expires_at);
CREATE INDEX idempotency_recipient_message ON idempotency_recipient (message_id);

CREATE TABLE spool (
    spool_id   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    begun_at   BIGINT NOT NULL,
    message_id TEXT COLLATE "C" UNIQUE REFERENCES message (message_id),
    octets     BIGINT CHECK (octets > 0),
    sha256     TEXT COLLATE "C" CHECK (length(sha256) = 64),
    left_at    BIGINT CHECK (left_at IS NULL OR message_id IS NULL),
    CHECK ((message_id IS NULL) = (octets IS NULL) AND (message_id IS NULL) = (sha256 IS NULL))
);
CREATE INDEX spool_orphan ON spool (begun_at) WHERE message_id IS NULL;

CREATE TABLE chunk (
    spool_id TEXT COLLATE "C" NOT NULL REFERENCES spool (spool_id) ON DELETE CASCADE,
    chunk_no BIGINT NOT NULL CHECK (chunk_no >= 0),
    bytes    BYTEA NOT NULL,
    UNIQUE (spool_id, chunk_no)
);
CREATE INDEX spool_left ON spool (left_at) WHERE left_at IS NOT NULL;

CREATE TABLE event (
    message_id TEXT COLLATE "C" NOT NULL REFERENCES message (message_id),
    part_no    BIGINT NOT NULL,
    address    TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL CHECK (kind IN
                   ('sent', 'delivery_delayed', 'soft_bounced', 'delivered', 'failed', 'suppressed', 'bounced', 'complained')),
    told_at    BIGINT NOT NULL,
    words      TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (message_id, part_no, address, kind, told_at, words),
    FOREIGN KEY (message_id, part_no) REFERENCES part (message_id, part_no)
);

CREATE TABLE suppression (
    customer_id TEXT COLLATE "C" NOT NULL REFERENCES customer (customer_id),
    address     TEXT COLLATE "C" NOT NULL CHECK (address <> ''),
    reason      TEXT COLLATE "C" NOT NULL CHECK (reason IN ('bounce', 'complaint', 'upstream', 'manual')),
    detail      TEXT COLLATE "C",
    message_id  TEXT COLLATE "C",
    added_at    BIGINT NOT NULL,
    PRIMARY KEY (customer_id, address)
);

CREATE TABLE reputation (
    customer_id TEXT COLLATE "C" NOT NULL REFERENCES customer (customer_id),
    day         BIGINT NOT NULL,
    sent        BIGINT NOT NULL DEFAULT 0 CHECK (sent >= 0),
    bounced     BIGINT NOT NULL DEFAULT 0 CHECK (bounced >= 0),
    complained  BIGINT NOT NULL DEFAULT 0 CHECK (complained >= 0),
    PRIMARY KEY (customer_id, day)
);
CREATE INDEX reputation_day ON reputation (day);

CREATE TABLE attempt (
    message_id  TEXT COLLATE "C" NOT NULL,
    part_no     BIGINT NOT NULL,
    number      BIGINT NOT NULL CHECK (number > 0),
    attempt     BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    outcome     TEXT COLLATE "C" NOT NULL CHECK (outcome IN ('sent', 'failed', 'deferred', 'unknown', 'held')),
    upstream_id TEXT COLLATE "C",
    words       TEXT COLLATE "C",
    PRIMARY KEY (message_id, part_no, number),
    FOREIGN KEY (message_id, part_no) REFERENCES part (message_id, part_no)
);

CREATE TABLE proof (
    customer_id   TEXT COLLATE "C" NOT NULL REFERENCES customer (customer_id),
    domain        TEXT COLLATE "C" NOT NULL CHECK (domain <> ''),
    way           TEXT COLLATE "C" NOT NULL CHECK (way IN ('dns', 'resend')),
    state         TEXT COLLATE "C" NOT NULL CHECK (state IN ('adding', 'pending', 'verified', 'lost', 'denied', 'removing')),
    token         TEXT COLLATE "C",
    resend_id     TEXT COLLATE "C" UNIQUE,
    status        TEXT COLLATE "C",
    records       TEXT COLLATE "C",
    detail        TEXT COLLATE "C",
    created_at    BIGINT NOT NULL,
    checked_at    BIGINT,
    verified_at   BIGINT,
    missing_since BIGINT,
    tries         BIGINT NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_check_at BIGINT,
    expires_at    BIGINT,
    PRIMARY KEY (customer_id, domain),
    CHECK ((way = 'dns') = (token IS NOT NULL)),
    CHECK (way = 'resend' OR (resend_id IS NULL AND state NOT IN ('adding', 'removing'))),
    CHECK (state <> 'verified' OR (verified_at IS NOT NULL AND expires_at IS NULL)),
    CHECK (state NOT IN ('pending', 'lost') OR expires_at IS NOT NULL)
);
CREATE UNIQUE INDEX proof_owner ON proof (domain) WHERE state = 'verified';
CREATE UNIQUE INDEX proof_at_resend ON proof (domain) WHERE way = 'resend';
CREATE INDEX proof_due ON proof (next_check_at) WHERE next_check_at IS NOT NULL;

-- Written once, read once, and packed already.
ALTER TABLE chunk ALTER COLUMN bytes SET STORAGE EXTERNAL;
