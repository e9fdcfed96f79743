-- What the operator decided about messages in the queue; rows leave with their message.
CREATE TABLE decision (
    message_id TEXT    NOT NULL REFERENCES message (message_id),
    number     INTEGER NOT NULL CHECK (number > 0),
    decided_at INTEGER NOT NULL,
    choice     TEXT    NOT NULL CHECK (choice IN ('retry', 'cancel')),
    via        TEXT    NOT NULL CHECK (via IN ('command', 'http')),
    -- Parts that were held: for them the risk was told and taken.
    held_parts INTEGER NOT NULL CHECK (held_parts >= 0),
    PRIMARY KEY (message_id, number)
) STRICT, WITHOUT ROWID;

-- What stood in rows that have left, so that the audit still adds up.
-- Captures leave in the order of their numbers: those up to closed_capture are gone.
ALTER TABLE account ADD COLUMN closed_capture INTEGER NOT NULL DEFAULT 0 CHECK (closed_capture >= 0);
-- The sum of the debit entries that are gone, all of them settled.
ALTER TABLE account ADD COLUMN closed_settled INTEGER NOT NULL DEFAULT 0 CHECK (closed_settled >= 0);
-- Of this message's captured credits: those whose capture rows are gone, and were settled.
ALTER TABLE message ADD COLUMN closed INTEGER NOT NULL DEFAULT 0 CHECK (closed >= 0);
-- Of this entry's amount: what its captures that are gone came to.
ALTER TABLE entry ADD COLUMN closed INTEGER NOT NULL DEFAULT 0 CHECK (closed >= 0);

-- Settled entries with captures that have not left, and what is closed, from the oldest on.
CREATE INDEX entry_range ON entry (customer_id, first_capture);
CREATE INDEX entry_settled ON entry (closed_at) WHERE kind = 'debit' AND state = 'done' AND closed < amount;
CREATE INDEX entry_closed ON entry (closed_at) WHERE state <> 'open';
CREATE INDEX webhook_received ON webhook (received_at);
CREATE INDEX checkout_created ON checkout (created_at);
