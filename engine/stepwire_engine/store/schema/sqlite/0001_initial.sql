-- The first schema. Migrations are never edited once released: add the next number instead.
--
-- The journal is the only truth about a run; every other table is written in the same transaction.
-- `crc` columns seal a row's meaning (store/rows.py): SQLite serves a flipped bit without complaint.
-- A table that the engine does not write yet stays as small as its later use surely needs.

PRAGMA application_id = 1400133488; -- "StWp"

-- One row per run per commit. With a rowid, because appending costs half of keeping 100 active runs clustered.
CREATE TABLE journal (
    run   INTEGER NOT NULL,
    seq   INTEGER NOT NULL, -- 1, 2, 3, ... without a gap
    crc   INTEGER NOT NULL, -- of run, seq and body
    chain INTEGER NOT NULL, -- of the previous row's chain and this row's crc
    body  BLOB    NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT;

-- Payloads over 64 KiB, so that reading a timeline never reads outputs.
CREATE TABLE blobs (
    run      INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    ordinal  INTEGER NOT NULL, -- which payload of the row
    crc      INTEGER NOT NULL,
    encoding TEXT    NOT NULL,
    data     BLOB    NOT NULL,
    PRIMARY KEY (run, seq, ordinal)
) STRICT;

-- `record` is what is served; the columns before it are what queries search.
-- `head_seq` and `head_chain` say how far the journal must reach, so that a lost tail is noticed.
CREATE TABLE runs (
    run        INTEGER PRIMARY KEY,
    run_id     TEXT    NOT NULL UNIQUE,
    flow       TEXT    NOT NULL,
    state      INTEGER NOT NULL,
    namespace  TEXT    NOT NULL,
    partition  INTEGER NOT NULL,
    build_id   TEXT    NOT NULL,
    parent     INTEGER,
    labels     TEXT    NOT NULL DEFAULT '{}',
    head_seq   INTEGER NOT NULL,
    head_chain INTEGER NOT NULL,
    record     BLOB    NOT NULL,
    crc        INTEGER NOT NULL
) STRICT;
CREATE INDEX runs_by_state ON runs (state, run);
CREATE INDEX runs_by_flow ON runs (flow, state, run);

CREATE TABLE keys (
    key TEXT    PRIMARY KEY,
    run INTEGER NOT NULL,
    crc INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: readers ask for rows after a number, so a number is never used twice.
CREATE TABLE inbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    run    INTEGER NOT NULL,
    crc    INTEGER NOT NULL,
    row    BLOB    NOT NULL
) STRICT;

CREATE TABLE sessions (
    instance_id TEXT    PRIMARY KEY,
    crc         INTEGER NOT NULL,
    record      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE flows (
    flow TEXT    PRIMARY KEY,
    crc  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE partitions (
    partition   INTEGER PRIMARY KEY,
    claim_epoch INTEGER NOT NULL,
    owner       TEXT    NOT NULL DEFAULT '',
    until_ms    INTEGER NOT NULL DEFAULT 0,
    crc         INTEGER NOT NULL -- of partition and claim_epoch
) STRICT;

CREATE TABLE timers (
    run    INTEGER NOT NULL,
    path   TEXT    NOT NULL,
    due_ms INTEGER NOT NULL,
    PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX timers_by_due ON timers (due_ms);

CREATE TABLE waits (
    run   INTEGER NOT NULL,
    path  TEXT    NOT NULL,
    event TEXT    NOT NULL,
    PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX waits_by_event ON waits (event);

CREATE TABLE events (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT    NOT NULL UNIQUE, -- deduplicates
    event    TEXT    NOT NULL,
    at_ms    INTEGER NOT NULL,
    crc      INTEGER NOT NULL,
    encoding TEXT    NOT NULL,
    data     BLOB    NOT NULL
) STRICT;
CREATE INDEX events_by_event ON events (event, at_ms);

-- The store's own bookkeeping: `rowless_commits` proves a commit that wrote no journal row, `probe` asks for space.
CREATE TABLE bookkeeping (
    name  TEXT PRIMARY KEY,
    value ANY  NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO bookkeeping VALUES ('rowless_commits', 0);
