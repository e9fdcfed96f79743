-- A key may stand for several messages of one content: what was accepted for some
-- recipients at first and for the others later. It names the content; who has it
-- under the key, and by which message, stands recipient by recipient.
ALTER TABLE idempotency_key RENAME TO idempotency_key_before;

CREATE TABLE idempotency_key (
    customer_id TEXT    NOT NULL REFERENCES customer (customer_id),
    key         TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 256),
    fingerprint TEXT    NOT NULL CHECK (length(fingerprint) = 64),
    -- How many were accepted under it.
    messages    INTEGER NOT NULL CHECK (messages > 0),
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (customer_id, key)
) STRICT, WITHOUT ROWID;

-- A recipient has it once under a key: the database itself says so.
-- A message that is deleted takes its rows with it.
CREATE TABLE idempotency_recipient (
    customer_id TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    address     TEXT    NOT NULL,
    message_id  TEXT    NOT NULL REFERENCES message (message_id) ON DELETE CASCADE,
    -- Which of the key's messages that is, from 1 in the order of their acceptance.
    number      INTEGER NOT NULL CHECK (number > 0),
    PRIMARY KEY (customer_id, key, address),
    FOREIGN KEY (customer_id, key) REFERENCES idempotency_key (customer_id, key) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

INSERT INTO idempotency_key (customer_id, key, fingerprint, messages, expires_at)
SELECT customer_id, key, fingerprint, 1, expires_at FROM idempotency_key_before;

INSERT INTO idempotency_recipient (customer_id, key, address, message_id, number)
SELECT k.customer_id, k.key, r.address, k.message_id, 1
FROM idempotency_key_before k JOIN recipient r ON r.message_id = k.message_id;

DROP TABLE idempotency_key_before;
CREATE INDEX idempotency_key_expires ON idempotency_key (expires_at);
CREATE INDEX idempotency_recipient_message ON idempotency_recipient (message_id);
