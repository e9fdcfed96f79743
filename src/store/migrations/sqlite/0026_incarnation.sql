-- Which start of the process goes by this name, and where its directory lies: a directory that
-- was copied has another process go by the same name.
ALTER TABLE node ADD COLUMN incarnation TEXT NOT NULL DEFAULT '';
ALTER TABLE node ADD COLUMN place TEXT NOT NULL DEFAULT '';
