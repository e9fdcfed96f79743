-- Who may have the mail by an attempt whose outcome was never told, and of which no
-- later answer can tell: a copy over SMTP that was lost after the final dot, and a
-- call to Resend whose key the operator gave up. Only the news that it was sent ends it.
ALTER TABLE recipient ADD COLUMN maybe_taken INTEGER NOT NULL DEFAULT 0 CHECK (maybe_taken IN (0, 1));

UPDATE recipient SET maybe_taken = 1
WHERE state = 'queued' AND EXISTS
    (SELECT 1 FROM part p WHERE p.message_id = recipient.message_id AND p.part_no = recipient.part_no
        AND p.road = 'smtp' AND (p.unknown = 1 OR p.state = 'held'));
