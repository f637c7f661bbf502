-- What has become of each chunk that a language model is asked about.

CREATE OR REPLACE VIEW heal.question_state AS
WITH author AS (
    SELECT a.model, a.prompt_hash FROM (
        (SELECT c.model, c.prompt_hash, c.asked_at AS at FROM heal.chunk_asked c ORDER BY c.asked_at DESC LIMIT 1)
        UNION ALL
        (SELECT l.model, l.prompt_hash, l.created_at FROM heal.llm_call l WHERE l.purpose = 'questions'
         ORDER BY l.created_at DESC LIMIT 1)) a
    ORDER BY a.at DESC LIMIT 1
)
SELECT c.chunk_id, c.document_id, author.model, author.prompt_hash,
       CASE WHEN a.status IS NOT NULL THEN a.status WHEN f.calls > 0 THEN 'failed' ELSE 'open' END AS state,
       CASE WHEN a.status IS NOT NULL THEN a.reason ELSE coalesce(f.status || ': ' || left(f.raw_reply, 500), '') END AS reason,
       CASE WHEN a.status IS NULL THEN 'the next run'
            ELSE 'another HEAL_LLM_MODEL, HEAL_QUESTIONS_PER_CHUNK or version of the prompt' END AS reopened_by,
       coalesce(a.questions, 0) AS questions, coalesce(f.calls, 0) AS useless_calls, coalesce(a.asked_at, f.last_at) AS last_at
FROM heal.chunk c
LEFT JOIN author ON true
LEFT JOIN heal.chunk_asked a ON (a.chunk_id, a.prompt_hash, a.model) = (c.chunk_id, author.prompt_hash, author.model)
LEFT JOIN LATERAL (
    SELECT count(*) AS calls, max(l.created_at) AS last_at,
           (array_agg(l.status ORDER BY l.call_id DESC))[1] AS status,
           (array_agg(l.raw_reply ORDER BY l.call_id DESC))[1] AS raw_reply
    FROM heal.llm_call l
    WHERE (l.prompt_hash, l.model, l.content_hash) = (author.prompt_hash, author.model, c.content_hash) AND l.status <> 'ok'
) f ON true
WHERE c.superseded_at IS NULL;
COMMENT ON VIEW heal.question_state IS
    'For each live chunk what has become of the questions about it, by the model and prompt that were used last. answered: a usable reply, '
    'whatever the filters kept of it; refused: the model refused the text (reason); failed: no usable reply (reason: the last one), asked '
    'again by the next run; open: not asked yet. reopened_by: what has the chunk asked about again.';
