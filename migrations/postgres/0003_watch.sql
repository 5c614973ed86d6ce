-- Who may declare nodes dead: one row for each process that cleans. A watcher renews its row like a
-- lease; `since` is when its present, unbroken watch began.
CREATE TABLE asynch_watch (
    watcher    UUID PRIMARY KEY,
    since      TIMESTAMPTZ NOT NULL,
    held_until TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 30);
