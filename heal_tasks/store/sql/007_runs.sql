-- Runs of the pipeline and the results of their steps.

CREATE TABLE heal.run (
    run_id        text PRIMARY KEY,
    started_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz,
    route         text CHECK (route IN ('nothing', 'nudge', 'realign')),
    route_reason  text,
    route_facts   jsonb,
    verdict       text,
    generation_id bigint,
    report_uri    text
);
COMMENT ON TABLE heal.run IS 'One row per pipeline run: the route that it took, why, and the result.';

CREATE TABLE heal.step_result (
    step        text NOT NULL,
    fingerprint text NOT NULL,
    shard       integer NOT NULL DEFAULT 0,
    run_id      text NOT NULL,
    result      jsonb,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    done        bigint NOT NULL DEFAULT 0,
    total       bigint NOT NULL DEFAULT 0,
    message     text NOT NULL DEFAULT '',
    PRIMARY KEY (step, fingerprint, shard)
);
CREATE INDEX step_result_run ON heal.step_result (run_id);
COMMENT ON TABLE heal.step_result IS
    'One row per step and fingerprint of its input: the finished result, which a repeated step returns, or the progress so far.';
