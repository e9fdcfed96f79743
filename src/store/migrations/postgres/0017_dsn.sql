-- What the sender asks to be told (RFC 3461), as it was said; NULL: nothing was.
ALTER TABLE message ADD COLUMN ret TEXT COLLATE "C" CHECK (ret IN ('FULL', 'HDRS'));
ALTER TABLE message ADD COLUMN envid TEXT COLLATE "C";
ALTER TABLE recipient ADD COLUMN notify TEXT COLLATE "C";
ALTER TABLE recipient ADD COLUMN orcpt TEXT COLLATE "C";
