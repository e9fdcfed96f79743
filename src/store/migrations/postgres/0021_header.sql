-- The header of a message that left by Resend, as far as a report returns it: Resend tells
-- later that it came back, when its bytes are gone. Written when they go; leaves with its message.
CREATE TABLE header (
    message_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    bytes      BYTEA NOT NULL CHECK (length(bytes) BETWEEN 1 AND 32768)
);

-- When it was told first that somebody of the part did not get it, and not who: its sender
-- hears of that once.
ALTER TABLE part ADD COLUMN somebody_failed_at BIGINT;
