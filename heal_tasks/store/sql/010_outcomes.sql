-- A text is settled by a usable reply or a refusal only: what an invalid reply had settled is open again.

ALTER TABLE heal.llm_call ADD COLUMN guessed boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN heal.llm_call.guessed IS
    'The endpoint counted no tokens: they, and the cost, are guessed by the sizes of prompt and reply.';
CREATE INDEX llm_call_useless ON heal.llm_call (prompt_hash, model, content_hash) WHERE status <> 'ok';

ALTER TABLE heal.chunk_asked
    ADD COLUMN status text NOT NULL DEFAULT 'answered' CHECK (status IN ('answered', 'refused')),
    ADD COLUMN reason text NOT NULL DEFAULT '';
COMMENT ON TABLE heal.chunk_asked IS
    'Chunks that a model has answered, even if the filters kept no question, or refused, so that a stored reply is not paid for again. '
    'A chunk whose calls failed or brought nothing usable has no row. View heal.question_state shows all chunks.';
COMMENT ON COLUMN heal.chunk_asked.reason IS 'The beginning of a refusal.';

WITH last AS (
    SELECT DISTINCT ON (c.content_hash, c.prompt_hash, c.model) c.content_hash, c.prompt_hash, c.model, c.status, c.raw_reply
    FROM heal.llm_call c WHERE c.purpose = 'questions'
    ORDER BY c.content_hash, c.prompt_hash, c.model, c.call_id DESC
), refused AS (
    UPDATE heal.chunk_asked a SET status = 'refused', reason = left(coalesce(l.raw_reply, ''), 500)
    FROM last l WHERE (a.content_hash, a.prompt_hash, a.model) = (l.content_hash, l.prompt_hash, l.model)
        AND l.status = 'refused' AND a.questions = 0 AND a.dropped = 0
)
DELETE FROM heal.chunk_asked a
USING last l WHERE (a.content_hash, a.prompt_hash, a.model) = (l.content_hash, l.prompt_hash, l.model)
    AND l.status = 'invalid' AND a.questions = 0 AND a.dropped = 0;

DELETE FROM heal.entity_map WHERE status = 'invalid';
ALTER TABLE heal.entity_map
    DROP CONSTRAINT entity_map_status_check,
    ADD CONSTRAINT entity_map_status_check CHECK (status IN ('ok', 'empty', 'long', 'short', 'refused'));
COMMENT ON TABLE heal.entity_map IS
    'Entities, attributes and relations that a chunk names. Training uses those with status ok. empty: the chunk states no '
    'fact; long, short: the rendered map is longer than the text, or below 15 % of it; refused: the model refused. All are kept, so '
    'that a stored reply is not paid for again; a chunk without a usable reply has no row. Token counts are the base model''s.';

DELETE FROM heal.answer WHERE status = 'invalid';
ALTER TABLE heal.answer
    DROP CONSTRAINT answer_status_check,
    ADD CONSTRAINT answer_status_check CHECK (status IN ('ok', 'refused'));
COMMENT ON TABLE heal.answer IS
    'Answers of a language model from the passages that a generation finds for a question; content_hash covers both. Kept so '
    'that a stored reply is not paid for again, and deleted with any chunk that they may quote. refused: the model gave no answer.';
