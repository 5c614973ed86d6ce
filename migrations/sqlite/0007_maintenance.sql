-- Whose turn it is to do a periodic duty that one node does at a time. `holder` is made anew each
-- time the turn is taken; the turn is free when there is no row or when `held_until` has passed.
CREATE TABLE asynch_turn (
    duty       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    held_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is known of a job's schedule. Times up to `done_until` are dealt with: whatever was missed
-- between it and now counts as one. A node that starts with another schedule begins at its start.
CREATE TABLE asynch_job (
    job        TEXT PRIMARY KEY,
    schedule   TEXT NOT NULL,
    done_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The runs of jobs. States: 0 waiting, 1 running, 2 succeeded, 3 failed, 4 lost. A run in state 1 is
-- alive while its runner holds the turn at the job's duty.
CREATE TABLE asynch_job_run (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    job         TEXT    NOT NULL,
    state       INTEGER NOT NULL DEFAULT 0,
    cause       TEXT    NOT NULL,
    creator     TEXT    NOT NULL DEFAULT '',
    created_at  INTEGER NOT NULL,
    started_at  INTEGER,
    finished_at INTEGER,
    runner      TEXT,
    node        TEXT    NOT NULL DEFAULT '',
    result      TEXT,
    error_msg   TEXT    NOT NULL DEFAULT '',
    CONSTRAINT ck_asynch_job_run_state CHECK (state BETWEEN 0 AND 4)
) STRICT;
-- A job never overlaps itself, whatever nodes believe.
CREATE UNIQUE INDEX uk_asynch_job_run_open ON asynch_job_run (job) WHERE state IN (0, 1);
CREATE INDEX ix_asynch_job_run_job ON asynch_job_run (job, id);

-- What tenants may use up and how much of theirs is kept; a tenant without a row has what holds for
-- all, and is not cleaned by count. NULL: as the plan says, or what holds for all.
CREATE TABLE asynch_tenant (
    tenant_id           INTEGER PRIMARY KEY,
    plan                TEXT,
    requests_per_second INTEGER,
    max_concurrency     INTEGER,
    keep_results        INTEGER,
    op_log_days         INTEGER,
    -- What of max_concurrency is in force, the plan's word included; 0 = no limit. The claim reads it.
    cap                 INTEGER NOT NULL DEFAULT 0,
    creator             TEXT    NOT NULL,
    created_at          INTEGER NOT NULL,
    updater             TEXT    NOT NULL,
    updated_at          INTEGER NOT NULL
) STRICT;
CREATE INDEX ix_asynch_tenant_updated ON asynch_tenant (updated_at);
