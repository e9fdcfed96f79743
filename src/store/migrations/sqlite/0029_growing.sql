-- Whoever is due is asked for by road, and by whether they leave alone: part_road_alone and
-- part_road_together are in the order of time too. This index had all of them, and whoever took it
-- walked past what waits behind a closed gate.
DROP INDEX part_due;
