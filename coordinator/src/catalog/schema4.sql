-- Version 4: which cluster the points of a workload are of.

-- As its members tell it; none until a point of a chosen member was committed.
ALTER TABLE workloads ADD COLUMN cluster TEXT;
