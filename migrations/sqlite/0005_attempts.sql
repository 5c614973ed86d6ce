-- The twin of the Postgres migration of this number.
CREATE TABLE asynch_attempt (
    tenant_id  INTEGER NOT NULL,
    task_id    TEXT    NOT NULL,
    attempt    INTEGER NOT NULL,
    -- 1 failed, 2 lost, 3 handed back, 4 upload failed.
    ending     INTEGER NOT NULL,
    started_at INTEGER,
    ended_at   INTEGER NOT NULL,
    -- The incarnation that held it.
    node       TEXT    NOT NULL,
    error_msg  TEXT    NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, task_id, attempt)
) WITHOUT ROWID;

ALTER TABLE asynch_watch ADD COLUMN name TEXT NOT NULL DEFAULT '';

CREATE INDEX ix_asynch_task_failed ON asynch_task (tenant_id, task_id) WHERE state = 3 OR state = 5;
