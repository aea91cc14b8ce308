-- Version 5: drills, each with what it showed.

CREATE TABLE drills (
  job BLOB PRIMARY KEY NOT NULL,
  workload TEXT NOT NULL,
  point BLOB NOT NULL,
  -- Of the point.
  moment INTEGER NOT NULL,
  copy TEXT NOT NULL,
  node TEXT NOT NULL,
  kind TEXT NOT NULL,
  ordered_by TEXT NOT NULL,
  began INTEGER NOT NULL,
  ended INTEGER,
  -- held, failed, broken off; none while nothing is known.
  verdict TEXT,
  level TEXT NOT NULL,
  -- Of the proof, by the clock of the node; once however often it is told.
  proven INTEGER,
  -- From the order until it answered.
  took_ms INTEGER,
  detail TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX drills_of_copies ON drills (workload, copy, began);
