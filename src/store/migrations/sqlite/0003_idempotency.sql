-- Submissions that may be retried: what was accepted under which key of a customer's.
-- A message that is deleted takes its key with it.
CREATE TABLE idempotency_key (
    customer_id TEXT    NOT NULL REFERENCES customer (customer_id),
    key         TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 256),
    fingerprint TEXT    NOT NULL CHECK (length(fingerprint) = 64),
    message_id  TEXT    NOT NULL REFERENCES message (message_id) ON DELETE CASCADE,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (customer_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_key_expires ON idempotency_key (expires_at);
CREATE INDEX idempotency_key_message ON idempotency_key (message_id);
