-- Version 2: the grace of copies that no reason keeps.

-- The reasons that keep a copy; once it is doomed: those that ended.
ALTER TABLE ledger ADD COLUMN reasons TEXT;
-- What the coordinator's counted time showed when the copy was doomed, in nanoseconds.
ALTER TABLE ledger ADD COLUMN doomed_counted INTEGER;
