-- A lock of the pipeline. Only those who may write into the schema can take it, so no reader can hold up a run. It is a view
-- because VACUUM of a whole database would wait for a locked table.

CREATE VIEW heal.run_lock AS SELECT 1 AS locked;
COMMENT ON VIEW heal.run_lock IS
    'Never read, only locked: in EXCLUSIVE mode by a run from the command line, in SHARE mode by a single step.';
