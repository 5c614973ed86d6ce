-- The twin of the Postgres migration of this number: same tables, columns and indexes.
-- Times are microseconds since 1970, ids are text, JSON is text.

CREATE TABLE asynch_models (
    id                      INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id               INTEGER       NOT NULL DEFAULT 0,
    creator                 TEXT  NOT NULL,
    created_at              INTEGER  NOT NULL,
    updater                 TEXT  NOT NULL,
    updated_at              INTEGER  NOT NULL,
    deleted_at              INTEGER,
    model_name              TEXT NOT NULL,
    base_url                TEXT NOT NULL,
    route                   TEXT NOT NULL DEFAULT '',
    http_method             TEXT   NOT NULL DEFAULT 'POST',
    api_key                 TEXT         NOT NULL DEFAULT '',
    enabled                 INTEGER     NOT NULL DEFAULT 1,
    max_concurrency         INTEGER          NOT NULL DEFAULT 10,
    total_concurrency       INTEGER          NOT NULL DEFAULT 0,
    queue_limit             INTEGER          NOT NULL DEFAULT 1000,
    timeout_seconds         INTEGER          NOT NULL DEFAULT 60,
    retry_times             INTEGER          NOT NULL DEFAULT 0,
    retry_queue_max_seconds INTEGER          NOT NULL DEFAULT 0,
    auto_clean_seconds      INTEGER          NOT NULL DEFAULT 86400,
    remark                  TEXT         NOT NULL DEFAULT '',
    shared                  INTEGER     NOT NULL DEFAULT 0,
    CONSTRAINT ck_asynch_models_shared CHECK (shared = 0 OR tenant_id = 0)
);
CREATE UNIQUE INDEX uk_asynch_models_tenant_model_name ON asynch_models (tenant_id, model_name) WHERE deleted_at IS NULL;

CREATE INDEX ix_asynch_models_deleted ON asynch_models (id) WHERE deleted_at IS NOT NULL;

CREATE TABLE asynch_task (
    id              INTEGER PRIMARY KEY,
    tenant_id       INTEGER       NOT NULL DEFAULT 0,
    creator         TEXT  NOT NULL,
    created_at      INTEGER  NOT NULL,
    updater         TEXT  NOT NULL DEFAULT '',
    updated_at      INTEGER  NOT NULL,
    deleted_at      INTEGER,
    model_id        INTEGER       NOT NULL,
    model_name      TEXT NOT NULL,
    biz_name        TEXT NOT NULL DEFAULT '',
    task_id         TEXT         NOT NULL,
    state           INTEGER     NOT NULL DEFAULT 0,
    oss_file        TEXT         NOT NULL DEFAULT '',
    oss_key         TEXT         NOT NULL DEFAULT '',
    file_type       TEXT  NOT NULL DEFAULT '',
    file_size       INTEGER       NOT NULL DEFAULT 0,
    error_msg       TEXT         NOT NULL DEFAULT '',
    started_at      INTEGER,
    finished_at     INTEGER,
    expire_at       INTEGER,
    retry_count     INTEGER          NOT NULL DEFAULT 0,
    enqueue_at      INTEGER  NOT NULL,
    phase           INTEGER     NOT NULL DEFAULT 0,
    tmp_file        TEXT         NOT NULL DEFAULT '',
    input_ref       TEXT         NOT NULL DEFAULT '',
    -- The caller's text to the letter.
    request_payload TEXT,
    -- The fence: how often the task was claimed.
    attempt         INTEGER          NOT NULL DEFAULT 0,
    lost_attempts   INTEGER          NOT NULL DEFAULT 0,
    -- The incarnation that holds it while state = 1, and when that run must be over.
    owner           TEXT,
    deadline_at     INTEGER,
    -- End of the rest before a retry; NULL = claimable.
    due_at          INTEGER,
    caller_headers  TEXT         NOT NULL DEFAULT '',
    traceparent     TEXT  NOT NULL DEFAULT '',
    CONSTRAINT uk_asynch_task UNIQUE (tenant_id, task_id),
    CONSTRAINT ck_asynch_task_state CHECK (state BETWEEN 0 AND 5),
    CONSTRAINT ck_asynch_task_phase CHECK (phase = 0 OR (phase = 1 AND state = 1)),
    CONSTRAINT ck_asynch_task_attempt CHECK (attempt >= 0),
    CONSTRAINT ck_asynch_task_finished CHECK ((finished_at IS NOT NULL) = (state >= 2)),
    CONSTRAINT ck_asynch_task_owner CHECK ((owner IS NOT NULL) = (state = 1)),
    CONSTRAINT ck_asynch_task_due CHECK (due_at IS NULL OR state = 0)
);
CREATE INDEX ix_asynch_task_queued ON asynch_task (tenant_id, model_id, enqueue_at, task_id) WHERE state = 0 AND due_at IS NULL;
CREATE INDEX ix_asynch_task_due ON asynch_task (due_at) WHERE state = 0 AND due_at IS NOT NULL;
CREATE INDEX ix_asynch_task_resting ON asynch_task (tenant_id, model_id) WHERE state = 0 AND due_at IS NOT NULL;
CREATE INDEX ix_asynch_task_running ON asynch_task (model_id, tenant_id, phase) WHERE state = 1;
CREATE INDEX ix_asynch_task_owner ON asynch_task (owner, deadline_at) WHERE state = 1;
CREATE INDEX ix_asynch_task_expire ON asynch_task (expire_at) WHERE state IN (3, 4, 5);
CREATE INDEX ix_asynch_task_unclaimed ON asynch_task (finished_at) WHERE state = 2;

-- The two ends of a lane, one row each, so that enqueuers and claimers never wait for each other.
-- lane_in is locked where tasks are inserted and carries an upper bound of the live ones:
-- counted_live + (entered - counted_entered). Only when that bound reaches the limit are rows
-- counted, which makes the bound exact again.
CREATE TABLE asynch_lane_in (
    tenant_id       INTEGER NOT NULL,
    model_id        INTEGER NOT NULL,
    entered         INTEGER NOT NULL DEFAULT 0,
    counted_entered INTEGER NOT NULL DEFAULT 0,
    counted_live    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, model_id)
);
CREATE INDEX ix_asynch_lane_in_model ON asynch_lane_in (model_id);

-- lane_out is locked by the claim, so that the running rows it counts cannot grow meanwhile.
CREATE TABLE asynch_lane_out (
    tenant_id INTEGER NOT NULL,
    model_id  INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, model_id)
);

-- One row per process incarnation.
CREATE TABLE asynch_node (
    node        TEXT        PRIMARY KEY,
    name        TEXT        NOT NULL,
    started_at  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL
);

CREATE TABLE asynch_op_log (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id        INTEGER       NOT NULL DEFAULT 0,
    creator          TEXT  NOT NULL,
    created_at       INTEGER  NOT NULL,
    updater          TEXT  NOT NULL,
    updated_at       INTEGER  NOT NULL,
    deleted_at       INTEGER,
    ip               TEXT  NOT NULL DEFAULT '',
    user_agent       TEXT NOT NULL DEFAULT '',
    api_path         TEXT NOT NULL DEFAULT '',
    http_method      TEXT  NOT NULL DEFAULT '',
    biz_name         TEXT NOT NULL DEFAULT '',
    model_name       TEXT NOT NULL DEFAULT '',
    task_id          TEXT  NOT NULL DEFAULT '',
    op_type          TEXT  NOT NULL DEFAULT 'createTask',
    success          INTEGER     NOT NULL DEFAULT 1,
    error_msg        TEXT         NOT NULL DEFAULT '',
    cost_ms          INTEGER       NOT NULL DEFAULT 0,
    request_payload  TEXT,
    response_payload TEXT
);
CREATE INDEX ix_asynch_op_log_tenant ON asynch_op_log (tenant_id, id);

CREATE TABLE asynch_model_stat (
    day           TEXT             NOT NULL,
    tenant_id     INTEGER           NOT NULL DEFAULT 0,
    creator       TEXT      NOT NULL DEFAULT '',
    model_name    TEXT     NOT NULL DEFAULT '',
    request_count INTEGER           NOT NULL DEFAULT 0,
    success_count INTEGER           NOT NULL DEFAULT 0,
    failure_count INTEGER           NOT NULL DEFAULT 0,
    total_seconds REAL NOT NULL DEFAULT 0,
    result_bytes  INTEGER           NOT NULL DEFAULT 0,
    created_at    INTEGER      NOT NULL,
    updated_at    INTEGER      NOT NULL,
    PRIMARY KEY (day, tenant_id, creator, model_name)
);
CREATE INDEX ix_asynch_model_stat_tenant ON asynch_model_stat (tenant_id, day);
