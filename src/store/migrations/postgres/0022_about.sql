-- The message that a report of our own is about; it may have left. NULL: it is no report.
ALTER TABLE message ADD COLUMN about TEXT COLLATE "C";
-- Only reports are in it, so that no acceptance pays for it.
CREATE INDEX message_about ON message (about) WHERE about IS NOT NULL;
