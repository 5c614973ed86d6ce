-- The twin of the Postgres migration of this number.
CREATE TABLE asynch_series (
    span_seconds INTEGER NOT NULL,
    began_at     INTEGER NOT NULL,
    tenant_id    INTEGER NOT NULL,
    model_name   TEXT    NOT NULL,
    node         TEXT    NOT NULL,
    created      INTEGER NOT NULL,
    succeeded    INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    retried      INTEGER NOT NULL,
    lost         INTEGER NOT NULL,
    calls        INTEGER NOT NULL,
    result_bytes INTEGER NOT NULL,
    wait_times   TEXT    NOT NULL,
    run_times    TEXT    NOT NULL,
    total_times  TEXT    NOT NULL,
    PRIMARY KEY (span_seconds, began_at, tenant_id, model_name, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX ix_asynch_series_tenant ON asynch_series (tenant_id, span_seconds, began_at);
