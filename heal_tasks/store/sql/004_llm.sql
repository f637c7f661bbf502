-- The ledger of calls to language models, money reserved for calls under way, and batches sent over the Batch API.

CREATE TABLE heal.llm_call (
    call_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        text NOT NULL,
    purpose       text NOT NULL,
    model         text NOT NULL,
    prompt_hash   text NOT NULL,
    content_hash  text NOT NULL,
    chunk_id      bigint,
    status        text NOT NULL,
    input_tokens  integer NOT NULL DEFAULT 0,
    output_tokens integer NOT NULL DEFAULT 0,
    cost_usd      double precision NOT NULL DEFAULT 0,
    latency_s     double precision NOT NULL DEFAULT 0,
    raw_reply     text,
    batch_id      text,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX llm_call_cache ON heal.llm_call (content_hash, prompt_hash, model) WHERE status = 'ok';
CREATE INDEX llm_call_run ON heal.llm_call (run_id);
CREATE INDEX llm_call_chunk ON heal.llm_call (chunk_id);
CREATE INDEX llm_call_created ON heal.llm_call (created_at);
COMMENT ON TABLE heal.llm_call IS 'Every call to a language model with its tokens, cost and status.';
COMMENT ON COLUMN heal.llm_call.batch_id IS 'The endpoint''s name of the batch that the call was part of; null for a single call.';

CREATE TABLE heal.llm_reservation (
    run_id     text NOT NULL,
    chunk_id   bigint NOT NULL,
    cost_usd   double precision NOT NULL CHECK (cost_usd >= 0),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, chunk_id)
);
COMMENT ON TABLE heal.llm_reservation IS
    'The largest possible cost of calls under way, by chunk; deleted when the call is in the ledger. Rows of a killed task expire.';

CREATE TABLE heal.llm_batch (
    batch_key     text PRIMARY KEY,
    run_id        text NOT NULL,
    shard         integer NOT NULL,
    endpoint      text NOT NULL,
    model         text NOT NULL,
    prompt_hash   text NOT NULL,
    state         text NOT NULL DEFAULT 'planned'
        CHECK (state IN ('planned', 'sending', 'waiting', 'collected', 'lost')),
    texts         integer NOT NULL,
    batch_id      text,
    input_file_id text,
    note          text NOT NULL DEFAULT '',
    counts        jsonb NOT NULL DEFAULT '{}',
    counted_run   text,
    counted_shard integer,
    created_at    timestamptz NOT NULL DEFAULT now(),
    sent_at       timestamptz,
    ended_at      timestamptz
);
CREATE INDEX llm_batch_open ON heal.llm_batch (endpoint) WHERE state IN ('planned', 'sending', 'waiting');
CREATE INDEX llm_batch_counted ON heal.llm_batch (counted_run, counted_shard);
COMMENT ON TABLE heal.llm_batch IS
    'Batches of calls to a language model. batch_key is in the batch''s metadata at the endpoint, so that a batch whose id '
    'was never stored is found again. counts: the results, reported by counted_run. planned: nothing was sent; sending: it may '
    'have been sent; waiting: it was sent and will be paid for; collected: the replies are in heal.llm_call; lost: the endpoint '
    'gave no reply in time.';

CREATE TABLE heal.llm_batch_row (
    batch_key    text NOT NULL REFERENCES heal.llm_batch ON DELETE CASCADE,
    content_hash text NOT NULL,
    chunk_id     bigint NOT NULL,
    endpoint     text NOT NULL,
    model        text NOT NULL,
    prompt_hash  text NOT NULL,
    outcome      text CHECK (outcome IN ('invalid', 'cut_off', 'failed', 'unanswered')),
    problem      text NOT NULL DEFAULT '',
    PRIMARY KEY (batch_key, content_hash)
);
-- Two tasks never send the same text at the same time: the row of the second is refused.
CREATE UNIQUE INDEX llm_batch_row_open ON heal.llm_batch_row (content_hash, endpoint, model, prompt_hash)
    WHERE outcome IS NULL;
COMMENT ON TABLE heal.llm_batch_row IS
    'Texts in a batch that have no reply yet (outcome is null) or no usable one; a row is deleted when its reply is stored.';
