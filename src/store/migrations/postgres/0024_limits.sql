-- Limits that all nodes of a database keep together: when the bucket of each will be full
-- again, which says how much is in it. Where the time is over, the row says nothing.
CREATE TABLE bucket (
    -- Whose: 'dodo', 'dodo-entries' and 'resend', of calls; 'sign-in …', of failures.
    name    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- In Unix microseconds.
    full_at BIGINT NOT NULL CHECK (full_at >= 0)
) WITH (fillfactor = 50);
