-- The twin of the Postgres migration of this number.

CREATE TABLE asynch_alert (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    rule        TEXT    NOT NULL,
    -- lane/7/tts, model/tts, tenant/7, all, node/gpu-1, dependency/redis
    subject     TEXT    NOT NULL,
    -- The tenant that sees it too.
    tenant_id   INTEGER,
    severity    TEXT    NOT NULL,
    -- The fence of the next change.
    version     INTEGER NOT NULL DEFAULT 0,
    since       INTEGER NOT NULL,
    began_at    INTEGER,
    -- Since when the rule is no longer broken, where that is not long enough yet.
    clear_since INTEGER,
    told_at     INTEGER,
    ended_at    INTEGER,
    -- When a node last had the rule in its configuration.
    seen_at     INTEGER NOT NULL,
    -- What broke the rule, as JSON.
    causes      TEXT    NOT NULL
);
CREATE UNIQUE INDEX uk_asynch_alert_open ON asynch_alert (rule, subject) WHERE ended_at IS NULL;
CREATE INDEX ix_asynch_alert_tenant ON asynch_alert (tenant_id, id);
CREATE INDEX ix_asynch_alert_ended ON asynch_alert (ended_at) WHERE ended_at IS NOT NULL;

-- What is still to be told: one row for each channel, gone when it is sent. Nobody else tries before
-- `next_try_at`.
CREATE TABLE asynch_alert_news (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    channel     TEXT    NOT NULL,
    alert_id    INTEGER NOT NULL,
    news        TEXT    NOT NULL,
    -- Complete, as JSON.
    notice      TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    tries       INTEGER NOT NULL DEFAULT 0,
    next_try_at INTEGER NOT NULL,
    error       TEXT    NOT NULL DEFAULT ''
);
CREATE INDEX ix_asynch_alert_news_due ON asynch_alert_news (channel, next_try_at);
CREATE INDEX ix_asynch_alert_news_alert ON asynch_alert_news (alert_id);

-- Nodes that were declared dead, for a day.
CREATE TABLE asynch_lost_node (
    node      TEXT    PRIMARY KEY,
    name      TEXT    NOT NULL,
    -- When it renewed its lease last.
    last_seen INTEGER NOT NULL,
    lost_at   INTEGER NOT NULL
);
