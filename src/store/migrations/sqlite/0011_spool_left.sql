-- When the message of a spool became final. The spool belongs to no message since, can
-- be read by nobody, and leaves a few chunks at a time; NULL: it never had one, or has it.
ALTER TABLE spool ADD COLUMN left_at INTEGER CHECK (left_at IS NULL OR message_id IS NULL);
CREATE INDEX spool_left ON spool (left_at) WHERE left_at IS NOT NULL;
