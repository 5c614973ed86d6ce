-- Running calls in the order in which they began, so that a claim can count from the oldest one on. The
-- entries of calls that are over stay in the index for as long as any old transaction is open, and
-- whoever counts would walk over all of them.

SET LOCAL statement_timeout = 0;

DROP INDEX ix_asynch_task_running;
CREATE INDEX ix_asynch_task_running ON asynch_task (model_id, tenant_id, phase, started_at) WHERE state = 1;
