-- Answers that a language model gives from retrieved passages, to compare generations by.

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
    'What a model answered from the passages that a generation finds for a question, whose hash with them is content_hash. '
    'Kept so that nothing is paid for twice; deleted with any chunk that it may quote. refused, invalid: it gave no answer.';
COMMENT ON COLUMN heal.answer.chunk_ids IS 'The chunk that the question was written from, and those that were found.';
