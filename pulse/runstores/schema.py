"""The tables of the SQL stores, and each step from those of an earlier version to them."""

from typing import Final

# Said beside an error of a statement: a process that was there before a roll-out finds out so.
CHANGED: Final = "(a later release of Pulse may have changed the schema: end this process)"

# A run that waits for its next attempt has no `started`, and its time comes at `expires`.
TABLES: Final = """
CREATE TABLE tracks (
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    cursor BIGINT NOT NULL,
    PRIMARY KEY (app, name)
){keyed};
CREATE TABLE tasks (
    app TEXT NOT NULL,
    name TEXT NOT NULL,
    appended BIGINT NOT NULL,
    last_finished BIGINT,
    last_success BIGINT,
    PRIMARY KEY (app, name)
){keyed};
CREATE TABLE totals (
    app TEXT NOT NULL,
    task TEXT NOT NULL,
    outcome TEXT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (app, task, outcome)
){keyed};
CREATE TABLE held (
    app TEXT NOT NULL,
    id TEXT NOT NULL,
    task TEXT NOT NULL,
    due BIGINT NOT NULL,
    trigger TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    owner TEXT NOT NULL,
    started BIGINT,
    expires BIGINT,
    place TEXT NOT NULL,
    recovers INTEGER NOT NULL,
    lock TEXT NOT NULL,
    stop TEXT NOT NULL,
    progress TEXT,
    PRIMARY KEY (app, id)
){keyed};
CREATE INDEX held_by_task ON held (app, task);
CREATE TABLE pauses (
    app TEXT NOT NULL,
    task TEXT NOT NULL,
    since BIGINT NOT NULL,
    until BIGINT,
    note TEXT NOT NULL,
    author TEXT NOT NULL,
    PRIMARY KEY (app, task)
){keyed};
CREATE TABLE instances (
    app TEXT NOT NULL,
    owner TEXT NOT NULL,
    started BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    digest TEXT NOT NULL,
    server TEXT NOT NULL,
    version TEXT NOT NULL,
    PRIMARY KEY (app, owner)
){keyed};
CREATE TABLE configurations (
    app TEXT NOT NULL,
    digest TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    fingerprints TEXT NOT NULL,
    PRIMARY KEY (app, digest)
){keyed};
CREATE TABLE records (
    number {counter},
    app TEXT NOT NULL,
    id TEXT NOT NULL,
    task TEXT NOT NULL,
    due BIGINT NOT NULL,
    trigger TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    owner TEXT NOT NULL,
    started BIGINT,
    expires BIGINT,
    place TEXT NOT NULL,
    recovers INTEGER NOT NULL,
    finished BIGINT,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    status INTEGER,
    duration DOUBLE PRECISION,
    body {bytes} NOT NULL,
    errors {bytes} NOT NULL,
    first_due BIGINT,
    count BIGINT NOT NULL,
    result TEXT NOT NULL
);
CREATE INDEX records_by_task ON records (app, task, number);
"""
SECRETS: Final = """
CREATE TABLE secrets (
    app TEXT PRIMARY KEY,
    secret TEXT NOT NULL
){keyed};
CREATE TABLE spent (
    app TEXT NOT NULL,
    code TEXT NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (app, code)
){keyed};
"""
# What a run leaves behind beside its body, what people did, and how many runs a day has had.
TRACES: Final = """
ALTER TABLE records ADD COLUMN request TEXT NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN headers TEXT NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN log {bytes};
ALTER TABLE tasks ADD COLUMN ran_on BIGINT;
ALTER TABLE tasks ADD COLUMN ran BIGINT NOT NULL DEFAULT 0;
CREATE TABLE presses (
    number {counter},
    app TEXT NOT NULL,
    at BIGINT NOT NULL,
    author TEXT NOT NULL,
    address TEXT NOT NULL,
    action TEXT NOT NULL,
    task TEXT NOT NULL,
    details TEXT NOT NULL
);
CREATE INDEX presses_by_app ON presses (app, number)
"""
# All that a run changes of its task in one row: one statement keeps it, and one page. Without a cursor it is not
# a track: only its places are.
TALLIES: Final = """
ALTER TABLE tasks ADD COLUMN cursor BIGINT;
ALTER TABLE tasks ADD COLUMN success BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN failed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN timeout BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN cancelled BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN abandoned BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN lost BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN missed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN skipped BIGINT NOT NULL DEFAULT 0;
INSERT INTO tasks (app, name, appended, cursor) SELECT app, name, 0, cursor FROM tracks WHERE true
    ON CONFLICT (app, name) DO UPDATE SET cursor = excluded.cursor;
UPDATE tasks SET
    success = coalesce((SELECT count FROM totals WHERE app = tasks.app AND task = name AND outcome = 'success'), 0),
    failed = coalesce((SELECT count FROM totals WHERE app = tasks.app AND task = name AND outcome = 'failed'), 0),
    timeout = coalesce((SELECT count FROM totals WHERE app = tasks.app AND task = name AND outcome = 'timeout'), 0),
    cancelled = coalesce((SELECT count FROM totals WHERE app = tasks.app AND task = name AND outcome = 'cancelled'), 0),
    abandoned = coalesce((SELECT count FROM totals WHERE app = tasks.app AND task = name AND outcome = 'abandoned'), 0),
    lost = coalesce((SELECT count FROM totals WHERE app = tasks.app AND task = name AND outcome = 'lost'), 0),
    missed = coalesce((SELECT count FROM totals WHERE app = tasks.app AND task = name AND outcome = 'missed'), 0),
    skipped = coalesce((SELECT count FROM totals WHERE app = tasks.app AND task = name AND outcome = 'skipped'), 0);
DROP TABLE totals;
"""
# Who has a lock is found without a look at all that is held. Most tasks have none, and their runs are not in it.
# Not by the application first: SQLite would take the primary key for as good, which begins with it, too.
LOCKS: Final = """
CREATE INDEX held_by_lock ON held (lock) WHERE lock <> ''
"""
# How long runs took and how late they began, for averages over any time; and how many requests each guard has refused.
SUMS: Final = """
ALTER TABLE tasks ADD COLUMN timed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN seconds DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN seconds_late DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE instances ADD COLUMN refused BIGINT NOT NULL DEFAULT 0
"""
# How many steps of the store have failed in a process.
ERRORS: Final = """
ALTER TABLE instances ADD COLUMN store_errors BIGINT NOT NULL DEFAULT 0
"""
