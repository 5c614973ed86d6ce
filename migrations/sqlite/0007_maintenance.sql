-- Whose turn it is to do a periodic duty that one node does at a time. `holder` is made anew each
-- time the turn is taken; the turn is free when there is no row or when `held_until` has passed.
CREATE TABLE asynch_turn (
    duty       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    held_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
