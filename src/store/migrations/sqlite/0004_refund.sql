-- What a recipient's server said after the upstream had taken the message.
ALTER TABLE recipient ADD COLUMN bounced_at INTEGER;
ALTER TABLE recipient ADD COLUMN bounce TEXT;

-- Of a credit: when Dodo lets it lapse (NULL: never), and the account's version when it was opened.
ALTER TABLE entry ADD COLUMN expires_at INTEGER;
ALTER TABLE entry ADD COLUMN version INTEGER;

-- Credits given back for messages that bounced: one for a message (address ''), or one for a recipient.
--   waiting   somebody of the message is not final yet
--   due       to be posted as a credit; entry_id names the open entry that does
--   released  its capture was in no entry yet, and was taken back
--   credited  Dodo has the credit
--   capped, expired, refused: nothing is given back, and reason says why
CREATE TABLE refund (
    message_id  TEXT    NOT NULL,
    address     TEXT    NOT NULL,
    customer_id TEXT    NOT NULL REFERENCES customer (customer_id),
    amount      INTEGER NOT NULL CHECK (amount > 0),
    state       TEXT    NOT NULL CHECK (state IN
                    ('waiting', 'due', 'released', 'credited', 'capped', 'expired', 'refused')),
    entry_id    TEXT,
    voids       INTEGER NOT NULL DEFAULT 0,
    reason      TEXT,
    decided_at  INTEGER NOT NULL,
    PRIMARY KEY (message_id, address),
    CHECK ((state = 'credited') <= (entry_id IS NOT NULL)),
    CHECK (state IN ('due', 'credited') OR entry_id IS NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX refund_open ON refund (customer_id) WHERE state = 'waiting' OR state = 'due';
CREATE INDEX refund_entry ON refund (entry_id) WHERE entry_id IS NOT NULL;
CREATE INDEX refund_customer ON refund (customer_id, decided_at);
