-- Dormant runs, events, the waits for them, what a flow's registration asks for, and a check of keys.
--
-- A column that this file adds is NULL in the rows that are there already. NULL is left out of a row's seal, so
-- those keep the `crc` they have. No engine wrote `timers`, `waits`, `events` or `inbox` before this schema; from
-- here on an inbox row's `crc` also seals its number.

-- When a dormant run goes on by itself; NULL for every other run. A run has one such time, so it needs no table.
DROP TABLE timers;
ALTER TABLE runs ADD COLUMN wake_ms INTEGER;
CREATE INDEX runs_by_wake ON runs (wake_ms) WHERE wake_ms IS NOT NULL;

-- What the newest registration of the flow said; NULL: nothing.
ALTER TABLE flows ADD COLUMN options BLOB;

-- Open `wait_event` steps.
DROP TABLE waits;
CREATE TABLE waits (
    run   INTEGER NOT NULL,
    path  TEXT    NOT NULL,
    event TEXT    NOT NULL,
    match TEXT    NOT NULL,
    crc   INTEGER NOT NULL,
    PRIMARY KEY (run, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX waits_by_event ON waits (event, run, path);

-- `row` is what is served; the columns before it are what queries search.
-- AUTOINCREMENT: a delivery is noted by number, so a number is never used twice.
DROP TABLE events;
CREATE TABLE events (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    id        TEXT    NOT NULL UNIQUE, -- deduplicates
    name      TEXT    NOT NULL,
    due_ms    INTEGER NOT NULL,
    sent_ms   INTEGER NOT NULL,
    delivered INTEGER NOT NULL, -- 0 or 1
    crc       INTEGER NOT NULL, -- seals all but `delivered`, which its bit 32 repeats
    row       BLOB    NOT NULL
) STRICT;
CREATE INDEX events_undelivered ON events (due_ms) WHERE delivered = 0;
CREATE INDEX events_by_name ON events (name, due_ms) WHERE delivered = 1; -- look-back
CREATE INDEX events_by_age ON events (max(due_ms, sent_ms)) WHERE delivered = 1; -- pruning

-- A table without rowid and without an index can lose a row to one flipped bit of its key, and nothing would notice.
CREATE INDEX keys_by_run ON keys (run);
