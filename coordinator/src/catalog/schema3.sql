-- Version 3: what starting the application from a copy showed.

-- The newest start that held, and the newest that failed and that none held after: JSON.
ALTER TABLE ledger ADD COLUMN started TEXT;
ALTER TABLE ledger ADD COLUMN failed TEXT;
