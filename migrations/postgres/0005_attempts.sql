-- What became of attempts that did not succeed; written with the change of their task, deleted with
-- the task. An attempt that runs or succeeded is on the task's own row: most tasks have no row here.
CREATE TABLE asynch_attempt (
    tenant_id  BIGINT      NOT NULL,
    task_id    UUID        NOT NULL,
    attempt    INT         NOT NULL,
    -- 1 failed, 2 lost, 3 handed back, 4 upload failed.
    ending     SMALLINT    NOT NULL,
    started_at TIMESTAMPTZ,
    ended_at   TIMESTAMPTZ NOT NULL,
    -- The incarnation that held it.
    node       UUID        NOT NULL,
    error_msg  TEXT        NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, task_id, attempt)
);

-- Of which process a watch is, to be told by people.
ALTER TABLE asynch_watch ADD COLUMN name TEXT NOT NULL DEFAULT '';

-- Tasks that failed for good (or were cancelled) are looked for among millions that were not. A task
-- enters this index when it fails and leaves it when it is purged.
CREATE INDEX ix_asynch_task_failed ON asynch_task (tenant_id, task_id) WHERE state = 3 OR state = 5;
