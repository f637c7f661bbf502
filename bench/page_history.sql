-- What two years of nights leave in a store: bench.page runs the statements one by one, with the parameters size and runs.
INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual) VALUES ('b', 'b', %(size)s, 585, 512, 3, .5);
INSERT INTO heal.topic (topic_run_id, topic_id, parent_id, level, first_leaf, last_leaf, terms, k, silhouette, size)
SELECT 1, n, CASE WHEN n > 0 THEN (n - 1) / 8 END, level, (n - first) * wide, (n - first + 1) * wide - 1,
       ARRAY['word' || n, 'and', 'other', 'words', 'of', 'topic'], CASE WHEN level < 3 THEN 8 ELSE 1 END, .9, %(size)s * wide / 512
FROM generate_series(0, 584) n
JOIN (VALUES (0, 0, 1, 512), (1, 1, 9, 64), (2, 9, 73, 8), (3, 73, 585, 1)) AS l (level, first, past, wide) ON n >= first AND n < past;
INSERT INTO heal.run (run_id, started_at, finished_at, route, route_reason, verdict)
SELECT 'run ' || n, now() - make_interval(days => %(runs)s - n), now() - make_interval(days => %(runs)s - n) + interval '1 hour',
       (ARRAY['nothing', 'nudge', 'nudge', 'realign'])[1 + n %% 4], '20 new, 1 changed and 1 deleted of 100000 documents',
       '26 rows added, 0 changed, 1 removed; 1841 computed'
FROM generate_series(1, %(runs)s) n;
INSERT INTO heal.step_result (step, fingerprint, run_id, result, finished_at)
SELECT step, step || n, 'run ' || n, '{"refs": {"generation_id": "0", "best_id": "0"}, "counts": {}}', now()
FROM generate_series(1, %(runs)s) n, unnest(ARRAY['ingest', 'route', 'ask', 'embed_new', 'nudge_live', 'report']) step;
INSERT INTO heal.evaluation (run_id, generation_id, system, question_set, metric, value, low, high, questions)
SELECT 'run ' || n, 1, system, name, metric, .8 + .1 * sin(n / 20.0), .7 + .1 * sin(n / 20.0), .9 + .1 * sin(n / 20.0), 300
FROM generate_series(1, %(runs)s) n, unnest(ARRAY['live before', 'live after']) system,
     unnest(ARRAY['unseen documents', 'unseen documents, by text', 'human questions', 'human questions, by text', 'topics of unseen documents']) name,
     unnest(ARRAY['ndcg@10', 'recall@10', 'mrr@10', 'accuracy@1']) metric;
INSERT INTO heal.llm_call (run_id, purpose, model, prompt_hash, content_hash, chunk_id, status, input_tokens, output_tokens, cost_usd, raw_reply, created_at)
SELECT 'run ' || (1 + n %% %(runs)s), (ARRAY['questions', 'maps', 'answers'])[1 + n %% 3], 'model', 'p', n::text, n / 3, 'ok', 400, 120, .0001,
       left(repeat(md5(n::text), 20), 600), now() - make_interval(hours => (n %% (24 * %(runs)s))::int)
FROM generate_series(0, 3 * %(size)s - 1) n;
INSERT INTO heal.quarantine (run_id, source, path, line, reason, raw, mended_at)
SELECT 'run 1', 's3://bucket', 'folder/file ' || n || '.csv', n, 'the row has 3 columns, the heading 4', repeat('x', 500),
       CASE WHEN n %% 3 = 0 THEN now() END
FROM generate_series(1, 10000) n;
INSERT INTO heal.question (question_id, chunk_id, text, answer, evidence, kind, writer, model, prompt_hash, split)
SELECT n, n, 'which document has word ' || n, 'a', 'e', 'question', 'llm', 'm', 'p', 'unseen_test' FROM generate_series(0, 39) n;
INSERT INTO heal.rank_change SELECT 1, n, 'text', nullif(1 + n %% 11, 11), nullif(1 + (n * 7 + 3) %% 11, 11) FROM generate_series(0, 39) n;
UPDATE heal.generation SET topic_run_id = 1, run_id = 'run 1';
UPDATE heal.vec_g000001 SET leaf = chunk_id %% 512;
UPDATE heal.document SET metadata = jsonb_build_object('department', 'd' || document_id %% 10);
