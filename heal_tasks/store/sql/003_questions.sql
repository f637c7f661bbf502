-- Questions with the chunks that answer them, entity maps of chunks, and answers that generations are compared by.

CREATE TABLE heal.question (
    question_id     bigint PRIMARY KEY,
    chunk_id        bigint NOT NULL REFERENCES heal.chunk ON DELETE CASCADE,
    text            text NOT NULL,
    answer          text NOT NULL,
    evidence        text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('question', 'keyword', 'claim')),
    writer          text NOT NULL,
    model           text NOT NULL,
    prompt_hash     text NOT NULL,
    split           text NOT NULL
        CHECK (split IN ('train', 'seen_validation', 'seen_test', 'unseen_validation', 'unseen_test')),
    round_trip_rank integer CHECK (round_trip_rank > 0),
    cross_encoder   text,
    cross_encoder_score real,
    dropped_by      text CHECK (dropped_by IN ('round_trip', 'cross_encoder')),
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX question_chunk ON heal.question (chunk_id);
COMMENT ON TABLE heal.question IS
    'Questions with the chunk that answers them, an answer and a verbatim quotation as evidence. writer human: a judgment.';
COMMENT ON COLUMN heal.question.round_trip_rank IS
    'Rank of the question''s own chunk among all chunks, by the vectors of the base model.';
COMMENT ON COLUMN heal.question.dropped_by IS 'The filter that dropped the question; null: the question is in use.';

CREATE FUNCTION heal.text_key(text text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashtextextended(lower(text), 0);
COMMENT ON FUNCTION heal.text_key IS 'A hash of a question that ignores case.';
CREATE INDEX question_text_key ON heal.question (heal.text_key(text));

CREATE FUNCTION heal.moves_rows(split text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN split IN ('train', 'seen_validation', 'unseen_validation');
COMMENT ON FUNCTION heal.moves_rows IS
    'True for splits whose questions move the rows that answer them: training, and validation once it has chosen theta.';

CREATE TABLE heal.chunk_asked (
    content_hash text NOT NULL,
    prompt_hash  text NOT NULL,
    model        text NOT NULL,
    chunk_id     bigint NOT NULL REFERENCES heal.chunk ON DELETE CASCADE,
    questions    integer NOT NULL,
    dropped      integer NOT NULL,
    asked_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chunk_id, prompt_hash, model)
);
CREATE INDEX chunk_asked_content ON heal.chunk_asked (content_hash, prompt_hash, model);
COMMENT ON TABLE heal.chunk_asked IS
    'Chunks for which questions were generated, including those where the filters kept none, so that a stored reply is not paid for again.';

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
    'Samples of the questions that the filters dropped, with the name of the filter: at most twenty per filter, run and shard.';

CREATE TABLE heal.entity_map (
    chunk_id     bigint NOT NULL REFERENCES heal.chunk ON DELETE CASCADE,
    content_hash text NOT NULL,
    prompt_hash  text NOT NULL,
    model        text NOT NULL,
    status       text NOT NULL CHECK (status IN ('ok', 'empty', 'long', 'short', 'refused', 'invalid')),
    map          jsonb NOT NULL,
    dropped      integer NOT NULL,
    map_tokens   integer NOT NULL,
    text_tokens  integer NOT NULL,
    mapped_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chunk_id, prompt_hash, model)
);
CREATE INDEX entity_map_content ON heal.entity_map (content_hash, prompt_hash, model);
COMMENT ON TABLE heal.entity_map IS
    'Entities, attributes and relations that a chunk names. Training uses those with status ok. empty: the chunk states no '
    'fact; long, short: the rendered map is longer than the text, or below 15 % of it; refused, invalid: the model returned '
    'none. All are kept, so that a stored reply is not paid for again. Token counts are the base model''s.';

CREATE TABLE heal.answer (
    content_hash text NOT NULL,
    prompt_hash  text NOT NULL,
    model        text NOT NULL,
    chunk_ids    bigint[] NOT NULL,
    status       text NOT NULL CHECK (status IN ('ok', 'refused', 'invalid')),
    answer       text NOT NULL,
    evidence     text NOT NULL,
    answered_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (content_hash, prompt_hash, model)
);
CREATE INDEX answer_chunks ON heal.answer USING gin (chunk_ids);
COMMENT ON TABLE heal.answer IS
    'Answers of a language model from the passages that a generation finds for a question; content_hash covers both. Kept so '
    'that a stored reply is not paid for again, and deleted with any chunk that they may quote. refused, invalid: the model gave no answer.';
COMMENT ON COLUMN heal.answer.chunk_ids IS 'The source chunk of the question, and the chunks that were found.';
