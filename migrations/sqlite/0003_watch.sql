-- Who may declare nodes dead: one row for each process that cleans. A watcher renews its row like a
-- lease; `since` is when its present, unbroken watch began.
CREATE TABLE asynch_watch (
    watcher    TEXT PRIMARY KEY,
    since      INTEGER NOT NULL,
    held_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
