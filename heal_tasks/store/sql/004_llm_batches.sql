-- Calls that are sent together over the Batch API and answered hours later, and what each was about.

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
    'Batches of calls to a language model. batch_key is in the batch''s metadata at the endpoint, so that one whose id '
    'was never stored is found again. counts: what came of it, reported by counted_run. planned: nothing was sent; sending: it may have been; waiting: it was, and will '
    'be paid; collected: the replies are in heal.llm_call; lost: the endpoint gave no reply in time.';

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
-- Two tasks at once never send the same text: the second one's row is refused.
CREATE UNIQUE INDEX llm_batch_row_open ON heal.llm_batch_row (content_hash, endpoint, model, prompt_hash)
    WHERE outcome IS NULL;
COMMENT ON TABLE heal.llm_batch_row IS
    'Texts in a batch that have no reply yet (outcome is null) or none of use; a row goes when its reply is stored.';

ALTER TABLE heal.llm_call ADD COLUMN batch_id text;
COMMENT ON COLUMN heal.llm_call.batch_id IS 'The batch that the call was part of, as the endpoint names it; null for a call by itself.';
