-- What a large message has beyond its header, written while it arrives. The row of
-- `body` then holds the header alone, and `message.body_sha256` is the hash of that row.
CREATE TABLE spool (
    spool_id   TEXT    NOT NULL PRIMARY KEY,
    begun_at   INTEGER NOT NULL,
    -- The message that it belongs to; NULL: none yet, and none ever if its client went away.
    message_id TEXT    UNIQUE REFERENCES message (message_id),
    -- Octets of all chunks together, and their SHA-256.
    octets     INTEGER CHECK (octets > 0),
    sha256     TEXT    CHECK (length(sha256) = 64),
    CHECK ((message_id IS NULL) = (octets IS NULL) AND (message_id IS NULL) = (sha256 IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX spool_orphan ON spool (begun_at) WHERE message_id IS NULL;

-- A spool that is deleted takes its chunks with it.
CREATE TABLE chunk (
    spool_id TEXT    NOT NULL REFERENCES spool (spool_id) ON DELETE CASCADE,
    chunk_no INTEGER NOT NULL CHECK (chunk_no >= 0),
    bytes    BLOB    NOT NULL,
    UNIQUE (spool_id, chunk_no)
) STRICT;
