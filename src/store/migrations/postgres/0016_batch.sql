-- Parts that leave together in one call to Resend.
CREATE TABLE batch (
    -- The idempotency key of the call.
    batch_id    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- How many parts it carries.
    size        BIGINT NOT NULL CHECK (size BETWEEN 1 AND 100),
    composed_at BIGINT NOT NULL
);

-- How many parts the next call with this one may carry. 1: never in a batch, and its
-- calls are not composed.
ALTER TABLE part ADD COLUMN batch_max BIGINT NOT NULL DEFAULT 1 CHECK (batch_max BETWEEN 1 AND 100);
-- The call that it is fixed to, or by which it was sent or refused, and its place there.
ALTER TABLE part ADD COLUMN batch_id TEXT COLLATE "C" REFERENCES batch (batch_id);
ALTER TABLE part ADD COLUMN batch_no BIGINT CHECK ((batch_id IS NULL) = (batch_no IS NULL));
CREATE UNIQUE INDEX part_batch ON part (batch_id, batch_no) WHERE batch_id IS NOT NULL;
