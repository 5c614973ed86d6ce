-- The operation log is read tenant by tenant, so its key begins with the tenant, and one index does
-- what two did. While it is made others read, and who writes waits; at the end all wait for a moment.

SET LOCAL statement_timeout = 0;

CREATE UNIQUE INDEX asynch_op_log_next ON asynch_op_log (tenant_id, id);
DROP INDEX ix_asynch_op_log_tenant;
ALTER TABLE asynch_op_log
    DROP CONSTRAINT asynch_op_log_pkey,
    ADD CONSTRAINT ix_asynch_op_log_tenant PRIMARY KEY USING INDEX asynch_op_log_next;

-- Half of a page was left free for new versions of its rows. A small task that has ended takes half as
-- much again as when it came in, and one that finds no room is logged whole. Pages that are full by
-- the old measure stay as they are.
ALTER TABLE asynch_task SET (fillfactor = 40);
