-- Parts that leave alone are asked for apart from those that may leave together, however
-- many of either wait.
CREATE INDEX part_due_alone ON part (due_at) WHERE state = 'queued' AND batch_max = 1;
CREATE INDEX part_due_together ON part (due_at) WHERE state = 'queued' AND batch_max > 1;
