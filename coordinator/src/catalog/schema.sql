-- Version 1 of the catalog. Times are nanoseconds since 1970 UTC, ids 16 bytes, names text.
-- Nothing here is the only copy of what is needed to restore: points and ledger are rebuilt
-- from the repositories and media.

CREATE TABLE settings (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE nodes (
    org               TEXT NOT NULL,
    site              TEXT NOT NULL,
    role              TEXT NOT NULL,
    name              TEXT NOT NULL,
    serial            TEXT NOT NULL,
    software          TEXT NOT NULL,
    host              TEXT NOT NULL,
    certificate_until INTEGER,
    first_seen        INTEGER NOT NULL,
    last_seen         INTEGER NOT NULL,
    PRIMARY KEY (org, site, role, name)
) STRICT;

CREATE TABLE workloads (
    name  TEXT PRIMARY KEY,
    id    BLOB NOT NULL UNIQUE,
    since INTEGER NOT NULL
) STRICT;

CREATE TABLE policy_versions (
    version    INTEGER PRIMARY KEY AUTOINCREMENT,
    file       TEXT NOT NULL,
    toml       TEXT NOT NULL,
    hash       TEXT NOT NULL,
    applied_by TEXT NOT NULL,
    applied    INTEGER NOT NULL
) STRICT;

CREATE TABLE points (
    id             BLOB PRIMARY KEY,
    workload       TEXT NOT NULL,
    policy         TEXT,
    policy_version INTEGER NOT NULL,
    agent          TEXT NOT NULL,
    job            BLOB,
    previous       BLOB,
    moment         INTEGER NOT NULL,
    committed      INTEGER NOT NULL,
    consistency    TEXT NOT NULL,
    gaps           INTEGER NOT NULL,
    files          INTEGER NOT NULL,
    bytes          INTEGER NOT NULL,
    stored_bytes   INTEGER NOT NULL,
    frozen_ms      INTEGER NOT NULL,
    seconds        INTEGER NOT NULL
) STRICT;
CREATE INDEX points_by_moment ON points (workload, moment);

CREATE TABLE ledger (
    point        BLOB NOT NULL REFERENCES points (id) ON DELETE CASCADE,
    copy         TEXT NOT NULL,
    state        TEXT NOT NULL,
    proof        TEXT,
    proven       INTEGER,
    lock_until   INTEGER,
    bytes_sent   INTEGER NOT NULL DEFAULT 0,
    bytes_stored INTEGER NOT NULL DEFAULT 0,
    seconds      INTEGER NOT NULL DEFAULT 0,
    attempts     INTEGER NOT NULL DEFAULT 0,
    last_error   TEXT,
    next_attempt INTEGER,
    doomed       INTEGER,
    changed      INTEGER NOT NULL,
    PRIMARY KEY (point, copy)
) STRICT, WITHOUT ROWID;
CREATE INDEX ledger_by_state ON ledger (state, next_attempt);

-- The columns beside the id are what the journal says, kept for listing.
CREATE TABLE jobs (
    id       BLOB PRIMARY KEY,
    saga     TEXT NOT NULL,
    workload TEXT NOT NULL,
    state    TEXT NOT NULL,
    live     INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    ended    INTEGER
) STRICT;
CREATE INDEX jobs_by_workload ON jobs (workload, saga, created);
CREATE INDEX jobs_by_live ON jobs (live, created);

CREATE TABLE job_events (
    job   BLOB NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    seq   INTEGER NOT NULL,
    at    INTEGER NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (job, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE holds (
    name   TEXT PRIMARY KEY,
    by     TEXT NOT NULL,
    why    TEXT NOT NULL,
    placed INTEGER NOT NULL
) STRICT;
CREATE TABLE hold_points (
    hold  TEXT NOT NULL REFERENCES holds (name) ON DELETE CASCADE,
    point BLOB NOT NULL,
    PRIMARY KEY (hold, point)
) STRICT, WITHOUT ROWID;
CREATE TABLE hold_workloads (
    hold     TEXT NOT NULL REFERENCES holds (name) ON DELETE CASCADE,
    workload TEXT NOT NULL,
    PRIMARY KEY (hold, workload)
) STRICT, WITHOUT ROWID;

-- An empty copy stands for every copy.
CREATE TABLE pins (
    point      BLOB NOT NULL,
    copy       TEXT NOT NULL,
    by         TEXT NOT NULL,
    why        TEXT NOT NULL,
    until_time INTEGER,
    PRIMARY KEY (point, copy)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    name  TEXT PRIMARY KEY,
    ended INTEGER,
    by    TEXT NOT NULL,
    noted INTEGER NOT NULL
) STRICT;

CREATE TABLE media (
    id             BLOB PRIMARY KEY,
    barcode        TEXT NOT NULL UNIQUE,
    media_set      TEXT,
    sequence       INTEGER NOT NULL,
    sessions       INTEGER NOT NULL,
    used_bytes     INTEGER NOT NULL,
    capacity_bytes INTEGER NOT NULL,
    written        INTEGER,
    detail         TEXT NOT NULL
) STRICT;
CREATE TABLE media_points (
    medium BLOB NOT NULL REFERENCES media (id) ON DELETE CASCADE,
    point  BLOB NOT NULL,
    copy   TEXT NOT NULL,
    PRIMARY KEY (medium, point, copy)
) STRICT, WITHOUT ROWID;
CREATE INDEX media_by_point ON media_points (point, copy);
