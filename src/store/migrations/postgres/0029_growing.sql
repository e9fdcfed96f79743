-- Whoever is due is asked for by road, and by whether they leave alone: part_road_alone and
-- part_road_together are in the order of time too. This index had all of them, and whoever took it
-- walked past what waits behind a closed gate.
DROP INDEX part_due;

-- An update finds room on its own page and changes no index (HOT), where no column of an index
-- changes: not of parts, whose state is in the predicates of theirs.
ALTER TABLE account SET (fillfactor = 50);
ALTER TABLE meta SET (fillfactor = 50);
ALTER TABLE reputation SET (fillfactor = 50);
ALTER TABLE message SET (fillfactor = 70);
ALTER TABLE recipient SET (fillfactor = 70);
