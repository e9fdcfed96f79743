-- What was given back and has left: by refunds with their messages, and by whole credit entries.
ALTER TABLE account ADD COLUMN closed_refunded INTEGER NOT NULL DEFAULT 0 CHECK (closed_refunded >= 0);
ALTER TABLE account ADD COLUMN closed_credited INTEGER NOT NULL DEFAULT 0 CHECK (closed_credited >= 0);
UPDATE account SET closed_refunded =
    (SELECT coalesce(sum(e.closed), 0) FROM entry e
     WHERE e.customer_id = account.customer_id AND e.kind = 'credit');
