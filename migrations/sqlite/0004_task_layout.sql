-- The twin of the Postgres migration of this number. SQLite keeps rows in their place by itself, so
-- only the second index of running tasks goes: whoever looks for a node's tasks looks at all that run.

DROP INDEX ix_asynch_task_owner;
