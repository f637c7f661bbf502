-- Money promised to calls that are not in the ledger yet, and samples of what the filters refused.

CREATE INDEX llm_call_created ON heal.llm_call (created_at);

CREATE TABLE heal.llm_reservation (
    run_id     text NOT NULL,
    chunk_id   bigint NOT NULL,
    cost_usd   double precision NOT NULL CHECK (cost_usd >= 0),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, chunk_id)
);
COMMENT ON TABLE heal.llm_reservation IS
    'The most that calls under way can cost, by chunk; deleted when they are in the ledger. A killed task''s rows expire.';

CREATE TABLE heal.question_dropped (
    dropped_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chunk_id   bigint NOT NULL REFERENCES heal.chunk ON DELETE CASCADE,
    run_id     text NOT NULL,
    shard      integer NOT NULL,
    text       text NOT NULL,
    answer     text NOT NULL,
    evidence   text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('question', 'keyword', 'claim')),
    writer     text NOT NULL,
    reason     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX question_dropped_chunk ON heal.question_dropped (chunk_id);
CREATE INDEX question_dropped_run ON heal.question_dropped (run_id, shard);
COMMENT ON TABLE heal.question_dropped IS
    'A few questions that the filters refused, with the filter''s name; at most twenty per filter, run and shard.';
