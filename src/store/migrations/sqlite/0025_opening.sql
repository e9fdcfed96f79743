-- A gate that is being opened, a page of messages at a time: since when it is open for whoever
-- puts a part back, and up to which message the lifetimes have been extended.
ALTER TABLE gate ADD COLUMN opened_at INTEGER;
ALTER TABLE gate ADD COLUMN opened_to TEXT NOT NULL DEFAULT '';
