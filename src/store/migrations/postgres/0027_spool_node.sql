-- Which process writes a spool; nobody else finishes it. NULL: an older version wrote it.
ALTER TABLE spool ADD COLUMN node TEXT COLLATE "C";
