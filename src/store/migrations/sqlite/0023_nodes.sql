-- Which process has a part in its hands while the part is 'sending'; NULL: none has.
ALTER TABLE part ADD COLUMN node TEXT;

-- Which process posts an open entry, and until when nobody else does. NULL: none does.
ALTER TABLE entry ADD COLUMN node TEXT;
ALTER TABLE entry ADD COLUMN lease_until INTEGER;

-- The processes that share this database, and when each was here last. A database that is
-- a file has one process, which needs no row.
CREATE TABLE node (
    node_id TEXT    NOT NULL PRIMARY KEY,
    seen_at INTEGER NOT NULL
) STRICT;

-- What only one process has to do, which one does it, and until when no other begins.
CREATE TABLE duty (
    name       TEXT    NOT NULL PRIMARY KEY,
    node       TEXT    NOT NULL,
    held_until INTEGER NOT NULL
) STRICT;
