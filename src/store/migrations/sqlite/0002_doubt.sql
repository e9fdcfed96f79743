-- When the last call for an entry was made, since when its outcome can be told by
-- Dodo's ledger alone, and who told it in the end where no answer did.
ALTER TABLE entry ADD COLUMN last_tried_at INTEGER;
ALTER TABLE entry ADD COLUMN doubtful_since INTEGER;
ALTER TABLE entry ADD COLUMN decided_by TEXT CHECK (decided_by IN ('ledger', 'operator'));
