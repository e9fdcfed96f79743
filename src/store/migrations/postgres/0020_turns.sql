-- Whose part it is: its message's customer. Written with the part, and never changed.
ALTER TABLE part ADD COLUMN customer_id TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE part SET customer_id =
    (SELECT m.customer_id FROM message m WHERE m.message_id = part.message_id);

-- Who waits, and since when; on each road, so that a long queue behind a closed gate is
-- never walked through. Parts that leave alone are asked for apart from the others.
CREATE INDEX part_customer_alone ON part (customer_id, road, due_at) WHERE state = 'queued' AND batch_max = 1;
CREATE INDEX part_customer_together ON part (customer_id, road, due_at) WHERE state = 'queued' AND batch_max > 1;
-- The longest waiting of all.
CREATE INDEX part_road_alone ON part (road, due_at) WHERE state = 'queued' AND batch_max = 1;
CREATE INDEX part_road_together ON part (road, due_at) WHERE state = 'queued' AND batch_max > 1;
-- They were in the order of time alone.
DROP INDEX part_due_alone;
DROP INDEX part_due_together;
