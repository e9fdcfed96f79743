-- What the upstream told about a message after it took it; rows leave with their message.
-- Its own time, kind and words make an event: told twice, it is one row.
CREATE TABLE event (
    message_id TEXT    NOT NULL REFERENCES message (message_id),
    part_no    INTEGER NOT NULL,
    -- '': the whole part, or one of its recipients of whom nobody said which.
    address    TEXT    NOT NULL,
    kind       TEXT    NOT NULL CHECK (kind IN
                   ('sent', 'delivery_delayed', 'soft_bounced', 'delivered', 'failed', 'suppressed', 'bounced', 'complained')),
    told_at    INTEGER NOT NULL,
    words      TEXT    NOT NULL,
    PRIMARY KEY (message_id, part_no, address, kind, told_at, words),
    FOREIGN KEY (message_id, part_no) REFERENCES part (message_id, part_no)
) STRICT, WITHOUT ROWID;

-- Addresses that a customer's mail is not taken for. The address is the key of the
-- mailbox: lower case, its domain in A-labels.
CREATE TABLE suppression (
    customer_id TEXT    NOT NULL REFERENCES customer (customer_id),
    address     TEXT    NOT NULL CHECK (address <> ''),
    reason      TEXT    NOT NULL CHECK (reason IN ('bounce', 'complaint', 'upstream', 'manual')),
    detail      TEXT,
    -- The message that was the cause; it may have left.
    message_id  TEXT,
    added_at    INTEGER NOT NULL,
    PRIMARY KEY (customer_id, address)
) STRICT, WITHOUT ROWID;

-- Of each UTC day: recipients that were sent to, and what came back.
CREATE TABLE reputation (
    customer_id TEXT    NOT NULL REFERENCES customer (customer_id),
    day         INTEGER NOT NULL,
    sent        INTEGER NOT NULL DEFAULT 0 CHECK (sent >= 0),
    bounced     INTEGER NOT NULL DEFAULT 0 CHECK (bounced >= 0),
    complained  INTEGER NOT NULL DEFAULT 0 CHECK (complained >= 0),
    PRIMARY KEY (customer_id, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX reputation_day ON reputation (day);
-- Bounces and complaints of mail that was accepted before do not count: who is resumed begins anew.
ALTER TABLE customer ADD COLUMN counted_since INTEGER NOT NULL DEFAULT 0;

-- Attempts worth a line of their own; the ordinary one, which succeeded, is told by its part.
CREATE TABLE attempt (
    message_id  TEXT    NOT NULL,
    part_no     INTEGER NOT NULL,
    number      INTEGER NOT NULL CHECK (number > 0),
    attempt     INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    outcome     TEXT    NOT NULL CHECK (outcome IN ('sent', 'failed', 'deferred', 'unknown', 'held')),
    upstream_id TEXT,
    words       TEXT,
    PRIMARY KEY (message_id, part_no, number),
    FOREIGN KEY (message_id, part_no) REFERENCES part (message_id, part_no)
) STRICT, WITHOUT ROWID;

-- What its road changes or loses of the message: a JSON list of lines; NULL: nothing.
ALTER TABLE message ADD COLUMN notes TEXT;
-- The number of its (last) capture, so that its entry can be found.
ALTER TABLE message ADD COLUMN capture_no INTEGER;
