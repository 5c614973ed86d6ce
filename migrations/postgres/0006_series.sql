-- What happened minute by minute and hour by hour, by tenant and model. Each process writes rows of its
-- own (`node`), with all that the span came to so far, and who reads adds them up. The last three
-- columns are histograms: `bucket:count` pairs, buckets as in src/series/histogram.rs.
CREATE TABLE asynch_series (
    span_seconds INTEGER      NOT NULL,
    began_at     TIMESTAMPTZ  NOT NULL,
    tenant_id    BIGINT       NOT NULL,
    model_name   VARCHAR(128) NOT NULL,
    node         UUID         NOT NULL,
    created      BIGINT       NOT NULL,
    succeeded    BIGINT       NOT NULL,
    failed       BIGINT       NOT NULL,
    retried      BIGINT       NOT NULL,
    lost         BIGINT       NOT NULL,
    calls        BIGINT       NOT NULL,
    result_bytes BIGINT       NOT NULL,
    wait_times   TEXT         NOT NULL,
    run_times    TEXT         NOT NULL,
    total_times  TEXT         NOT NULL,
    PRIMARY KEY (span_seconds, began_at, tenant_id, model_name, node)
) WITH (fillfactor = 60);
CREATE INDEX ix_asynch_series_tenant ON asynch_series (tenant_id, span_seconds, began_at);
