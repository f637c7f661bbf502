-- Functions with a statement for each searchable generation, written again at every switch. Repeatable: applied again whenever this
-- file changes; after the others, whose functions it uses.

-- A session keeps the plans of the statements in a function, and planning takes a fifth to a third of a search for ten. A table name
-- cannot be a parameter, so a statement for each searchable generation is written out at every switch. LIMIT 100: with LIMIT k alone
-- the planner expects a tenth of the table, considers no plan good enough to keep, and plans every call again.
-- LIMIT 2000: as many candidates as a search for a hundred takes at most; the planner uses the index from 2,000 rows on.
CREATE OR REPLACE FUNCTION heal.near_statement(gen_row heal.generation, kind text, query text, k text, candidates text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT format(CASE kind WHEN 'bit' THEN
        'SELECT r.* FROM (SELECT s.* FROM (
             SELECT v.chunk_id, %1$s AS distance FROM heal.%2$I v ORDER BY %3$s LIMIT 2000) s LIMIT %5$s) r
         ORDER BY r.distance, r.chunk_id LIMIT %4$s'
        ELSE
        'SELECT s.* FROM (
             SELECT v.chunk_id, %1$s AS distance FROM heal.%2$I v ORDER BY %3$s LIMIT 100) s LIMIT %4$s' END,
        heal.index_order(gen_row, 'vector', query), heal.vector_table(gen_row.generation_id), heal.index_order(gen_row, kind, query), k,
        candidates)
$$;
COMMENT ON FUNCTION heal.near_statement IS
    'The part of a planned statement that finds the k nearest by an index of that kind; arguments as of heal.search_statement.';

CREATE OR REPLACE FUNCTION heal.search_statement(gen_row heal.generation, kind text, query text, k text, candidates text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT format('SELECT n.chunk_id, d.document_id, heal.title_line(d.title, c.heading), c.text, n.distance
                    FROM (%s) n
                    JOIN heal.chunk c ON c.chunk_id = n.chunk_id JOIN heal.document d ON d.document_id = c.document_id
                    ORDER BY n.distance, n.chunk_id', heal.near_statement(gen_row, kind, query, k, candidates))
$$;
COMMENT ON FUNCTION heal.search_statement IS
    'The statement of heal.search by an index of that kind, without topic, filter and condition and for k up to 100; query, k and '
    'candidates (heal.candidates): their names in the statement.';

CREATE OR REPLACE FUNCTION heal.readable_statement(gen_row heal.generation, kind text, query text, k text, depth text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT format(
        'SELECT n.chunk_id, n.distance
         FROM (SELECT v.chunk_id, v.document_id, %1$s AS distance FROM heal.%2$I v ORDER BY %3$s LIMIT %5$s) n
         JOIN heal.document d ON d.document_id = n.document_id WHERE d.acl IS NULL OR d.acl && permitted
         ORDER BY n.distance, n.chunk_id LIMIT %4$s',
        heal.index_order(gen_row, 'vector', query), heal.vector_table(gen_row.generation_id), heal.index_order(gen_row, kind, query), k, depth)
$$;
COMMENT ON FUNCTION heal.readable_statement IS
    'As heal.near_statement for rows that a reader may read, of whose principals the name is permitted: among the `depth` nearest rows.';

-- The rows of heal.chunk are read once, and carried to the end: looking the best up again took an eighth of a search.
-- OFFSET 0: otherwise the planner weighs every row twice, once for the largest weight.
CREATE OR REPLACE FUNCTION heal.find_statement(gen_row heal.generation, near text, readers boolean)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT format(
        'WITH near AS MATERIALIZED (
             %1$s
         ), candidate AS (
             SELECT n.chunk_id, n.distance, c.document_id, c.heading, c.text, c.words || '''' AS words
             FROM near n JOIN heal.chunk c ON c.chunk_id = n.chunk_id
             UNION ALL
             SELECT r.* FROM (
                 SELECT v.chunk_id, %2$s, c.document_id, c.heading, c.text, c.words || '''' FROM heal.chunk c
                 JOIN heal.%3$I v ON v.chunk_id = c.chunk_id WHERE c.words @@ rare%5$s LIMIT 200) r
             WHERE r.chunk_id <> ALL (ARRAY(SELECT n.chunk_id FROM near n))
         ), weighed AS (
             SELECT c.*, (
                 SELECT sum(u.weight * ts_rank(''{0.1, 0.1, 0.1, 0.1}'', c.words, u.stem)) FROM unnest(stems, weights) u (stem, weight)
             ) AS weight
             FROM candidate c OFFSET 0
         ), best AS (
             SELECT w.*, %4$s - w.distance + words_weight * coalesce(w.weight / nullif(max(w.weight) OVER (), 0), 0) AS score
             FROM weighed w ORDER BY score DESC, w.chunk_id LIMIT k
         )
         SELECT b.chunk_id, d.document_id, heal.title_line(d.title, b.heading), b.text, b.score, b.distance
         FROM best b JOIN heal.document d ON d.document_id = b.document_id%6$s
         ORDER BY b.score DESC, b.chunk_id',
        near, heal.index_order(gen_row, 'vector', 'query'), heal.vector_table(gen_row.generation_id),
        CASE gen_row.metric WHEN 'cosine' THEN 1 ELSE 0 END,
        CASE WHEN readers THEN
            ' AND (SELECT d.acl IS NULL OR d.acl && permitted FROM heal.document d WHERE d.document_id = v.document_id)' END,
        CASE WHEN readers THEN ' WHERE (SELECT count(*) FROM near) = 20' END)
$$;
COMMENT ON FUNCTION heal.find_statement IS
    'The statement of heal.find, of which the statement `near` finds the 20 nearest rows; for readers no rows where it finds fewer.';

CREATE OR REPLACE PROCEDURE heal.plan_searches()
LANGUAGE plpgsql AS $procedure$
BEGIN
    EXECUTE format($create$
        CREATE OR REPLACE FUNCTION heal.search_planned(query vector, gen bigint, kind text, k int, candidates int)
        RETURNS TABLE (chunk_id bigint, document_id bigint, title text, text text, distance double precision)
        LANGUAGE plpgsql STABLE ROWS 10 SET plan_cache_mode = force_generic_plan AS $body$
        BEGIN%s
        END $body$ $create$,
        (SELECT string_agg(format($branch$
            IF gen = %1$s AND kind = %2$L THEN
                RETURN QUERY
                    %3$s;
            END IF;$branch$, g.generation_id, i.kind, heal.search_statement(g, i.kind, 'query', 'k', 'candidates')), '')
         FROM heal.generation g CROSS JOIN (VALUES ('vector'), ('halfvec'), ('bit')) AS i (kind)
         WHERE g.state IN ('active', 'previous')));
    -- The languages of a lexicon are found by a loose index scan. The question is parsed once for each: of a small lexicon the planner
    -- would otherwise read every row, and parse the question again for each.
    EXECUTE format($create$
        CREATE OR REPLACE FUNCTION heal.question_stems(question text, gen bigint, only_language text DEFAULT NULL)
        RETURNS TABLE (language text, stem text, chunks int, weight real, embedding halfvec)
        LANGUAGE plpgsql STABLE ROWS 10 SET plan_cache_mode = force_generic_plan AS $body$
        #variable_conflict use_column
        BEGIN%s
            -- The snapshot of a transaction that began two switches ago still shows it as live.
            IF gen <> ALL (%L::bigint[]) THEN
                RAISE EXCEPTION 'generation %% is not searchable (retired)', gen
                    USING ERRCODE = 'HEA01', HINT = 'Two switches have retired it since this transaction began; begin a new one.';
            END IF;
        END $body$ $create$,
        (SELECT string_agg(format($branch$
            IF gen = %1$s THEN
                RETURN QUERY
                    WITH RECURSIVE used AS (
                        (SELECT l.language FROM heal.%2$I l ORDER BY 1 LIMIT 1)
                        UNION ALL
                        SELECT (SELECT l.language FROM heal.%2$I l WHERE l.language > u.language ORDER BY 1 LIMIT 1)
                        FROM used u WHERE u.language IS NOT NULL
                    ), word AS MATERIALIZED (
                        SELECT u.language, s.lexeme FROM used u CROSS JOIN LATERAL unnest(heal.to_words(u.language, question)) s
                        WHERE u.language IS NOT NULL
                            AND (only_language IS NULL OR heal.text_config(u.language) = heal.text_config(only_language))
                    )
                    SELECT l.language, l.stem, l.chunks, l.weight, l.embedding::halfvec
                    FROM word w JOIN heal.%2$I l ON l.language = w.language AND l.stem = w.lexeme;
            END IF;$branch$, g.generation_id, heal.vector_table(g.generation_id, 'lex')), '')
         FROM heal.generation g WHERE g.state IN ('active', 'previous')
         -- Generations from before there were lexicons have no table.
         AND to_regclass('heal.' || heal.vector_table(g.generation_id, 'lex')) IS NOT NULL),
        (SELECT coalesce(array_agg(g.generation_id), '{}') FROM heal.generation g WHERE g.state IN ('active', 'previous')));
    EXECUTE format($create$
        CREATE OR REPLACE FUNCTION heal.find_planned(
            query vector, gen bigint, kind text, k int, candidates int, words_weight double precision, rare tsquery, stems tsquery[],
            weights real[], permitted text[]
        )
        RETURNS TABLE (chunk_id bigint, document_id bigint, title text, text text, score double precision, distance double precision)
        LANGUAGE plpgsql STABLE ROWS 10 SET plan_cache_mode = force_generic_plan AS $body$
        BEGIN%s
        END $body$ $create$,
        (SELECT string_agg(format($branch$
            IF gen = %1$s AND kind = %2$L AND permitted IS NULL THEN
                RETURN QUERY
                    %3$s;
            END IF;
            IF gen = %1$s AND kind = %2$L AND permitted IS NOT NULL THEN
                RETURN QUERY
                    %4$s;
            END IF;$branch$, g.generation_id, i.kind,
            heal.find_statement(g, heal.near_statement(g, i.kind, 'query', '20', 'candidates'), false),
            heal.find_statement(g, heal.readable_statement(g, i.kind, 'query', '20', '200'), true)), '')
         FROM heal.generation g CROSS JOIN (VALUES ('vector'), ('halfvec'), ('bit')) AS i (kind)
         WHERE g.state IN ('active', 'previous')));
END $procedure$;
COMMENT ON PROCEDURE heal.plan_searches IS
    'Writes heal.search_planned, heal.question_stems and heal.find_planned again, for the generations that can be searched now.';
CALL heal.plan_searches();
COMMENT ON FUNCTION heal.question_stems IS
    'Stems of a question that the lexicon of a searchable generation has, in one language or in every language that documents have: the '
    'number of chunks with the stem, its inverse document frequency, and that times its vector.';
COMMENT ON FUNCTION heal.find_planned IS
    'heal.find through an index of that kind, without topic or filter and for k up to 10, by a plan that a session keeps; permitted: '
    'heal.permitted of a reader, who gets no rows where he may read fewer than 20 of the nearest 200.';
COMMENT ON FUNCTION heal.search_planned IS
    'heal.search through an index of that kind, without topic or filter and for k up to 100, by a plan that a session keeps; '
    'no rows for a generation that could not be searched at the last switch.';
