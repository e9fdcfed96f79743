-- How many messages a credential may send in a day and in a minute, of the clock (UTC); NULL: as
-- many as there are credits for.
ALTER TABLE credential ADD COLUMN per_day INTEGER;
ALTER TABLE credential ADD COLUMN per_minute INTEGER;
-- What a credential with caps has sent: the minute of its last message since 1970, and how many in
-- that minute and in its day. NULL: nothing yet.
ALTER TABLE credential ADD COLUMN counted_minute INTEGER;
ALTER TABLE credential ADD COLUMN in_minute INTEGER;
ALTER TABLE credential ADD COLUMN in_day INTEGER;

-- When it was used last, as far as that was noted: once an hour at most.
ALTER TABLE credential ADD COLUMN last_used_at INTEGER;
