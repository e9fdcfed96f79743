-- Which process has a part in its hands while the part is 'sending'; NULL: none has.
ALTER TABLE part ADD COLUMN node TEXT COLLATE "C";

-- Which process posts an open entry, and until when nobody else does. NULL: none does.
ALTER TABLE entry ADD COLUMN node TEXT COLLATE "C";
ALTER TABLE entry ADD COLUMN lease_until BIGINT;

-- The processes that share this database, and when each was here last.
CREATE TABLE node (
    node_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seen_at BIGINT           NOT NULL
) WITH (fillfactor = 50);

-- What only one process has to do, which one does it, and until when no other begins.
CREATE TABLE duty (
    name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    node       TEXT COLLATE "C" NOT NULL,
    held_until BIGINT           NOT NULL
) WITH (fillfactor = 50);
