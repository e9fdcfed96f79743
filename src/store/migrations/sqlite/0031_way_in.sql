-- Who began a checkout: the hash of a cookie of that browser. NULL: an older version began it, and
-- nobody is shown anything of it.
ALTER TABLE checkout ADD COLUMN browser_hash TEXT;
-- What it is for. NULL: an older version began it.
ALTER TABLE checkout ADD COLUMN product_id TEXT;
-- When Dodo was asked last what became of it.
ALTER TABLE checkout ADD COLUMN asked_at INTEGER;

-- Who is signed in on the page. Whoever has the id in a cookie is, until the row is gone.
CREATE TABLE session (
    session_hash TEXT NOT NULL PRIMARY KEY CHECK (length(session_hash) = 64),
    customer_id  TEXT NOT NULL REFERENCES customer (customer_id),
    -- The credential that was used. NULL: a mailed link was.
    username     TEXT,
    begun_at     INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX session_customer ON session (customer_id, begun_at);
CREATE INDEX session_expires ON session (expires_at);

-- Links that were mailed and not used yet. Whoever uses one deletes it.
CREATE TABLE sign_in_link (
    link_hash   TEXT NOT NULL PRIMARY KEY CHECK (length(link_hash) = 64),
    customer_id TEXT NOT NULL REFERENCES customer (customer_id),
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sign_in_link_customer ON sign_in_link (customer_id, created_at);
CREATE INDEX sign_in_link_expires ON sign_in_link (expires_at);

-- What Dodo told of a payment that an operator has to know of: money went back, or is disputed.
CREATE TABLE alert (
    -- 'refund' or 'dispute'.
    kind        TEXT NOT NULL,
    -- The refund or the dispute; where it has no id, the delivery that told of it.
    subject_id  TEXT NOT NULL CHECK (subject_id <> ''),
    customer_id TEXT NOT NULL REFERENCES customer (customer_id),
    payment_id  TEXT,
    -- What was told, in words: for people.
    words       TEXT NOT NULL,
    suspended   INTEGER NOT NULL CHECK (suspended IN (0, 1)),
    raised_at   INTEGER NOT NULL,
    PRIMARY KEY (kind, subject_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX alert_raised ON alert (raised_at);
CREATE INDEX alert_customer ON alert (customer_id, raised_at);

-- Occasions that a customer was told of by mail, or that need no mail: each is told once.
CREATE TABLE told (
    -- 'payment' or 'out-of-credit'.
    kind        TEXT NOT NULL,
    -- The payment; or the customer, until there is credit again.
    occasion    TEXT NOT NULL CHECK (occasion <> ''),
    customer_id TEXT NOT NULL REFERENCES customer (customer_id),
    told_at     INTEGER NOT NULL,
    PRIMARY KEY (kind, occasion)
) STRICT, WITHOUT ROWID;
CREATE INDEX told_at ON told (told_at);
