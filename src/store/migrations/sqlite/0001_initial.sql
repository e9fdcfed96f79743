-- Times are Unix milliseconds; credits are whole numbers; ids are text.
-- WITHOUT ROWID and STRICT are SQLite's; everything else reads the same in PostgreSQL.

-- What the database knows about itself: ('made_by', 'serve' or 'sandbox').
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE customer (
    customer_id      TEXT NOT NULL PRIMARY KEY,
    email            TEXT,
    name             TEXT,
    suspended_reason TEXT,
    created_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One account a customer. available = balance - held - owed.
CREATE TABLE account (
    customer_id     TEXT    NOT NULL PRIMARY KEY REFERENCES customer (customer_id),
    balance         INTEGER,
    balance_read_at INTEGER,
    held            INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    owed            INTEGER NOT NULL DEFAULT 0 CHECK (owed >= 0),
    version         INTEGER NOT NULL DEFAULT 0,
    last_capture    INTEGER NOT NULL DEFAULT 0 CHECK (last_capture >= 0),
    last_entered    INTEGER NOT NULL DEFAULT 0 CHECK (last_entered BETWEEN 0 AND last_capture),
    low_armed       INTEGER NOT NULL DEFAULT 0 CHECK (low_armed IN (0, 1)),
    closed_price    INTEGER NOT NULL DEFAULT 0,
    closed_captured INTEGER NOT NULL DEFAULT 0,
    closed_released INTEGER NOT NULL DEFAULT 0,
    CHECK ((balance IS NULL) = (balance_read_at IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX account_owing ON account (customer_id) WHERE owed > 0;

CREATE TABLE credential (
    username    TEXT NOT NULL PRIMARY KEY,
    customer_id TEXT NOT NULL REFERENCES customer (customer_id),
    secret_hash BLOB NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    label       TEXT,
    created_at  INTEGER NOT NULL,
    revoked_at  INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX credential_customer ON credential (customer_id);

CREATE TABLE sender (
    customer_id TEXT    NOT NULL REFERENCES customer (customer_id),
    pattern     TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (customer_id, pattern)
) STRICT, WITHOUT ROWID;

-- The ledger line: price = captured + released + still held.
CREATE TABLE message (
    message_id        TEXT    NOT NULL PRIMARY KEY,
    customer_id       TEXT    NOT NULL REFERENCES customer (customer_id),
    username          TEXT,
    kind              TEXT    NOT NULL CHECK (kind IN ('submission', 'bounce', 'notice')),
    reverse_path      TEXT    NOT NULL,
    header_from       TEXT    NOT NULL,
    subject           TEXT,
    size              INTEGER NOT NULL,
    body_sha256       TEXT    NOT NULL,
    unit              TEXT    NOT NULL CHECK (unit IN ('message', 'recipient')),
    price             INTEGER NOT NULL CHECK (price >= 0),
    captured          INTEGER NOT NULL DEFAULT 0 CHECK (captured >= 0),
    released          INTEGER NOT NULL DEFAULT 0 CHECK (released >= 0),
    accepted_at       INTEGER NOT NULL,
    expires_at        INTEGER NOT NULL,
    final_at          INTEGER,
    CHECK (captured + released <= price),
    CHECK (final_at IS NULL OR captured + released = price)
) STRICT, WITHOUT ROWID;
CREATE INDEX message_customer ON message (customer_id, message_id);

-- The recipients of one upstream call, its road, its key and the hash of its request.
CREATE TABLE part (
    message_id   TEXT    NOT NULL REFERENCES message (message_id),
    part_no      INTEGER NOT NULL,
    road         TEXT    NOT NULL CHECK (road IN ('resend', 'smtp')),
    state        TEXT    NOT NULL CHECK (state IN ('queued', 'sending', 'sent', 'failed', 'held')),
    attempt      INTEGER NOT NULL DEFAULT 0,
    due_at       INTEGER,
    lease_until  INTEGER,
    key_no       INTEGER NOT NULL DEFAULT 0,
    first_try_at INTEGER,
    unknown      INTEGER NOT NULL DEFAULT 0 CHECK (unknown IN (0, 1)),
    request_hash TEXT,
    upstream_id  TEXT,
    last_error   TEXT,
    PRIMARY KEY (message_id, part_no),
    CHECK ((state = 'queued') = (due_at IS NOT NULL)),
    CHECK ((state = 'sending') = (lease_until IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX part_due ON part (due_at) WHERE state = 'queued';
CREATE INDEX part_leased ON part (lease_until) WHERE state = 'sending';
CREATE INDEX part_held ON part (message_id) WHERE state = 'held';

CREATE TABLE recipient (
    message_id TEXT    NOT NULL,
    address    TEXT    NOT NULL,
    part_no    INTEGER NOT NULL,
    -- The order in which it was named: a request that is made again must be the same.
    ordinal    INTEGER NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('queued', 'sent', 'failed')),
    status     TEXT,
    reply      TEXT,
    PRIMARY KEY (message_id, address),
    FOREIGN KEY (message_id, part_no) REFERENCES part (message_id, part_no)
) STRICT, WITHOUT ROWID;

-- The message's bytes, until its last recipient is final.
CREATE TABLE body (
    message_id TEXT    NOT NULL REFERENCES message (message_id),
    chunk_no   INTEGER NOT NULL,
    bytes      BLOB    NOT NULL,
    UNIQUE (message_id, chunk_no)
) STRICT;

-- Holds that became debits, numbered per customer without a gap.
CREATE TABLE capture (
    customer_id TEXT    NOT NULL REFERENCES customer (customer_id),
    number      INTEGER NOT NULL CHECK (number > 0),
    message_id  TEXT    NOT NULL,
    amount      INTEGER NOT NULL CHECK (amount > 0),
    captured_at INTEGER NOT NULL,
    PRIMARY KEY (customer_id, number)
) STRICT, WITHOUT ROWID;

-- Ledger entries posted to Dodo; the id is the idempotency key there.
CREATE TABLE entry (
    entry_id      TEXT    NOT NULL PRIMARY KEY,
    customer_id   TEXT    NOT NULL REFERENCES customer (customer_id),
    kind          TEXT    NOT NULL CHECK (kind IN ('debit', 'credit')),
    first_capture INTEGER NOT NULL,
    last_capture  INTEGER NOT NULL,
    amount        INTEGER NOT NULL CHECK (amount > 0),
    reason        TEXT    NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('open', 'done', 'void')),
    tries         INTEGER NOT NULL DEFAULT 0,
    unknown_tries INTEGER NOT NULL DEFAULT 0,
    opened_at     INTEGER NOT NULL,
    first_unknown_at INTEGER,
    closed_at     INTEGER,
    last_error    TEXT,
    CHECK (first_capture <= last_capture),
    CHECK ((state = 'open') = (closed_at IS NULL))
) STRICT, WITHOUT ROWID;
-- At most one open entry a customer: the database itself says so.
CREATE UNIQUE INDEX entry_open ON entry (customer_id) WHERE state = 'open';
CREATE INDEX entry_customer ON entry (customer_id, entry_id);

-- An upstream's closed door.
CREATE TABLE gate (
    road         TEXT    NOT NULL PRIMARY KEY CHECK (road IN ('resend', 'smtp')),
    reason       TEXT    NOT NULL,
    since        INTEGER NOT NULL,
    try_again_at INTEGER NOT NULL CHECK (try_again_at >= since)
) STRICT, WITHOUT ROWID;

CREATE TABLE webhook (
    source      TEXT    NOT NULL CHECK (source IN ('dodo', 'resend')),
    webhook_id  TEXT    NOT NULL,
    type        TEXT    NOT NULL,
    customer_id TEXT,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (source, webhook_id)
) STRICT, WITHOUT ROWID;

-- A checkout that a browser began; only that browser holds the token.
CREATE TABLE checkout (
    token_hash  TEXT    NOT NULL PRIMARY KEY CHECK (length(token_hash) = 64),
    session_id  TEXT,
    state       TEXT    NOT NULL CHECK (state IN ('pending', 'paid', 'known', 'claimed')),
    customer_id TEXT    REFERENCES customer (customer_id),
    created_at  INTEGER NOT NULL,
    CHECK ((state = 'pending') = (customer_id IS NULL))
) STRICT, WITHOUT ROWID;
