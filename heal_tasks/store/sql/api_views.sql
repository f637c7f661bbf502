-- Views for readers. Repeatable: applied again whenever this file changes.

CREATE OR REPLACE VIEW heal.readable_document AS
SELECT d.document_id, d.source, d.external_id, d.title, d.metadata, d.language, d.content_hash, d.created_at, d.changed_at,
       d.duplicate_of
FROM heal.document d
WHERE d.deleted_at IS NULL AND ((SELECT heal.permitted()) IS NULL OR d.acl IS NULL OR d.acl && (SELECT heal.permitted()));
COMMENT ON VIEW heal.readable_document IS 'The documents that views for readers show: those that a session may read.';

CREATE OR REPLACE VIEW heal.embedding AS
SELECT s.chunk_id, s.document_id, s.leaf, s.embedding, s.generation_id FROM heal.served s
WHERE (SELECT heal.permitted()) IS NULL OR EXISTS (SELECT FROM heal.readable_document d WHERE d.document_id = s.document_id);
COMMENT ON VIEW heal.embedding IS 'Served vectors of the live generation, of the documents that a session may read.';

CREATE OR REPLACE VIEW heal.passages AS
SELECT e.chunk_id, e.document_id, c.ordinal, d.title, c.text, d.source, d.external_id, d.metadata, d.language, d.changed_at,
       dt.path AS topic_path, t.terms AS topic_terms, e.generation_id, c.heading
FROM heal.served e
JOIN heal.chunk c ON c.chunk_id = e.chunk_id JOIN heal.readable_document d ON d.document_id = e.document_id
JOIN heal.generation g ON g.generation_id = e.generation_id
LEFT JOIN heal.document_topic dt ON dt.topic_run_id = g.topic_run_id AND dt.document_id = e.document_id
LEFT JOIN heal.topic t ON t.topic_run_id = dt.topic_run_id AND t.topic_id = dt.path[cardinality(dt.path)];
COMMENT ON VIEW heal.passages IS
    'The chunks of the live generation with their texts, their document and its topic: path from the root, and words of the last topic in it.';

CREATE OR REPLACE VIEW heal.topics AS
SELECT t.topic_id, t.parent_id, t.level, t.first_leaf, t.last_leaf, t.terms, t.size, t.silhouette, t.topic_run_id
FROM heal.topic t JOIN heal.generation g ON g.topic_run_id = t.topic_run_id AND g.state = 'active'
ORDER BY t.first_leaf, t.level;
COMMENT ON VIEW heal.topics IS 'The topic tree of the live generation, in tree order.';

CREATE OR REPLACE VIEW heal.generation_status AS
SELECT g.generation_id, g.state, g.space_id, s.model_uri, g.dims, coalesce(g.nudge ->> 'variant', 'none') AS nudge_variant,
       coalesce((g.nudge ->> 'theta')::double precision, 0) AS nudge_theta, g.recall, g.created_at, g.activated_at,
       g.note, g.ef_search, g.index_kind, nullif(t.reltuples, -1)::bigint AS rows,
       pg_stat_get_dead_tuples(t.oid) AS dead_rows, pg_total_relation_size(t.oid) AS bytes,
       pg_relation_size(to_regclass('heal.' || heal.vector_table(g.generation_id) || '_hnsw')) AS index_bytes,
       nullif(l.reltuples, -1)::bigint AS lexicon_stems, pg_total_relation_size(l.oid) AS lexicon_bytes,
       s.model_sha256, coalesce((g.lexicon ->> 'lexicon_weight')::double precision, 0) AS lexicon_weight, g.changed_at, g.oversampling,
       CASE WHEN g.state <> 'retired' THEN NULL WHEN g.space_id = live.space_id THEN 1 ELSE b.recall / b.native_recall END AS bridge_share
FROM heal.generation g JOIN heal.space s USING (space_id)
LEFT JOIN heal.generation live ON live.state = 'active'
LEFT JOIN heal.bridge b ON b.from_space = g.space_id AND b.to_space = live.space_id
LEFT JOIN pg_class t ON t.oid = to_regclass('heal.' || heal.vector_table(g.generation_id))
LEFT JOIN pg_class l ON l.oid = to_regclass('heal.' || heal.vector_table(g.generation_id, 'lex'))
ORDER BY g.generation_id DESC;
COMMENT ON VIEW heal.generation_status IS
    'Every generation with its state, newest first; rows as of the last ANALYZE, sizes with indexes; null without tables. bridge_share: '
    'of a retired generation the share of the recall that its query vectors keep, mapped to the live one; null where they cannot be.';

CREATE OR REPLACE VIEW heal.lineage AS
SELECT e.chunk_id, e.document_id, d.source, d.external_id, d.title, d.content_hash AS document_hash, d.changed_at,
       c.content_hash AS chunk_hash, dt.topic_run_id, dt.path AS topic_path,
       (SELECT count(*) FROM heal.moved_chunk m WHERE m.chunk_id = e.chunk_id) AS questions,
       g.generation_id, s.model_uri, s.model_sha256, coalesce(g.nudge ->> 'variant', 'none') AS nudge_variant,
       coalesce((g.nudge ->> 'theta')::double precision, 0) AS nudge_theta, g.run_id, g.metrics
FROM heal.served e
JOIN heal.chunk c USING (chunk_id) JOIN heal.readable_document d ON d.document_id = e.document_id
JOIN heal.generation g ON g.generation_id = e.generation_id JOIN heal.space s ON s.space_id = g.space_id
LEFT JOIN heal.document_topic dt ON dt.topic_run_id = g.topic_run_id AND dt.document_id = e.document_id;
COMMENT ON VIEW heal.lineage IS 'For each served vector its document version, topic, number of questions, model and evaluation.';

-- A generation is measured before it is promoted, and again by every nudge.
CREATE OR REPLACE VIEW heal.quality AS
SELECT e.generation_id, g.state, s.model_uri, coalesce(g.nudge ->> 'variant', 'none') AS nudge_variant,
       regexp_replace(e.question_set, ', by text$', '') AS question_set,
       CASE WHEN e.question_set LIKE '%, by text' THEN 'text' ELSE 'encoder' END AS path,
       e.metric, e.value, e.low, e.high, e.questions, e.rival, e.difference, e.diff_low, e.diff_high, e.run_id,
       e.created_at AS measured_at,
       row_number() OVER (PARTITION BY e.generation_id, e.question_set, e.metric ORDER BY e.evaluation_id DESC) = 1 AS latest
FROM heal.evaluation e JOIN heal.generation g ON g.generation_id = e.generation_id JOIN heal.space s ON s.space_id = g.space_id
WHERE g.activated_at IS NOT NULL
ORDER BY e.evaluation_id;
COMMENT ON VIEW heal.quality IS
    'Retrieval quality of the live generation and of earlier ones, by question set and query path, with 95 % intervals and the paired '
    'difference to the rival; latest: the last measurement of this kind.';

CREATE OR REPLACE VIEW heal.runs AS
SELECT r.run_id, r.started_at, r.finished_at, r.route, r.route_reason AS reason, r.route_facts AS facts, r.verdict, r.generation_id,
       (SELECT coalesce(sum(l.cost_usd), 0) FROM heal.llm_call l WHERE l.run_id = r.run_id) AS cost_usd
FROM heal.run r ORDER BY r.started_at DESC;
COMMENT ON VIEW heal.runs IS 'Runs of the pipeline, newest first: the route that each took, why, and the result.';

CREATE OR REPLACE VIEW heal.quarantined AS
SELECT q.quarantine_id, q.source, q.path, q.line, q.reason, q.records, q.run_id, q.created_at, q.mended_at
FROM heal.quarantine q ORDER BY q.quarantine_id DESC;
COMMENT ON VIEW heal.quarantined IS
    'Rejected input, newest first: where it came from and why it was rejected, without the input itself; mended_at is null while it is so.';

CREATE OR REPLACE VIEW heal.costs AS
SELECT l.created_at::date AS day, l.run_id, l.purpose, l.model, count(*) AS calls, count(*) FILTER (WHERE l.status <> 'ok') AS useless_calls,
       sum(l.input_tokens) AS input_tokens, sum(l.output_tokens) AS output_tokens, sum(l.cost_usd) AS cost_usd
FROM heal.llm_call l GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW heal.costs IS 'Calls of language models with tokens and cost, by day, run, purpose and model.';
