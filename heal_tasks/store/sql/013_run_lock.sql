-- A lock of the pipeline. Only those who may write into the schema can take it, so no reader can hold up a run. It is a view
-- because VACUUM of a whole database would wait for a locked table.

CREATE VIEW heal.run_lock AS SELECT 1 AS locked;
COMMENT ON VIEW heal.run_lock IS
    'Never read, only locked: in EXCLUSIVE mode by a run from the command line, in SHARE mode by a single step.';

CREATE VIEW heal.run_lock_holder AS
SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'relation' AND l.granted AND l.relation = 'heal.run_lock'::regclass
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
COMMENT ON VIEW heal.run_lock_holder IS
    'Who holds the lock now: the application_name is the run''s id after ''heal: '', of at most 63 bytes together.';
