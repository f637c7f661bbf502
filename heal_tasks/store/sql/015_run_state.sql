-- What a run did and left is its own: a row for each of its steps, also for one whose result it took over, and the state at its end.

ALTER TABLE heal.step_result DROP CONSTRAINT step_result_pkey, ADD PRIMARY KEY (step, fingerprint, shard, run_id);
COMMENT ON TABLE heal.step_result IS
    'One row per run, step and fingerprint of its input: the finished result, which a repeated step returns, or the progress so far. '
    'A result that a run has taken over from another names that one as run_id.';

ALTER TABLE heal.run ADD COLUMN state jsonb;
COMMENT ON COLUMN heal.run.state IS 'Numbers of documents, questions and served rows at the end of the run.';
