-- What flows and steps log, as far as there is room for it. Nothing else of a run depends on these rows.
--
-- `n` counts the lines of a run from 1, those included that were dropped under way: where some are missing, a row
-- without a logger says how many.
CREATE TABLE logs (
    run     INTEGER NOT NULL,
    n       INTEGER NOT NULL,
    at_ms   INTEGER NOT NULL,
    path    TEXT    NOT NULL,
    attempt INTEGER NOT NULL,
    level   INTEGER NOT NULL,
    logger  TEXT    NOT NULL,
    message TEXT    NOT NULL,
    host    TEXT    NOT NULL,
    crc     INTEGER NOT NULL,
    PRIMARY KEY (run, n)
) STRICT;
