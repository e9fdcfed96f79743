-- How many messages a credential may send in a day and in a minute, of the clock (UTC); NULL: as
-- many as there are credits for.
ALTER TABLE credential ADD COLUMN per_day BIGINT;
ALTER TABLE credential ADD COLUMN per_minute BIGINT;
-- What a credential with caps has sent: the minute of its last message since 1970, and how many in
-- that minute and in its day. NULL: nothing yet.
ALTER TABLE credential ADD COLUMN counted_minute BIGINT;
ALTER TABLE credential ADD COLUMN in_minute BIGINT;
ALTER TABLE credential ADD COLUMN in_day BIGINT;

-- When it was used last, as far as that was noted: once an hour at most.
ALTER TABLE credential ADD COLUMN last_used_at BIGINT;

-- The counts change with every message of a credential that has caps, and no index does (HOT).
ALTER TABLE credential SET (fillfactor = 50);

-- Bodies come and go all the time, and the table keeps the room that it had at most: to give it
-- back, PostgreSQL locks the table for itself alone, and acceptances wait meanwhile.
ALTER TABLE body SET (vacuum_truncate = off, toast.vacuum_truncate = off);

-- Lists are short, and tables are not. It must not be put in line for that to be believed: where it
-- is, PostgreSQL takes each for a hundred elements, and a table that it knows nothing of yet for ten
-- rows, so it goes through the table and looks into the list.
ALTER FUNCTION json_each(TEXT) VOLATILE ROWS 1;
