-- Hybrid search by words and vector, and search for topics. Repeatable: applied again whenever this file changes.

CREATE OR REPLACE FUNCTION heal.word_stems(words text, language text DEFAULT NULL)
RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF language IS NULL THEN
        -- Every language in use, found by a loose index scan.
        RETURN QUERY WITH RECURSIVE used AS (
            (SELECT d.language AS name FROM heal.document d ORDER BY 1 LIMIT 1)
            UNION ALL
            SELECT (SELECT d.language FROM heal.document d WHERE d.language > u.name ORDER BY 1 LIMIT 1)
            FROM used u WHERE u.name IS NOT NULL
        ) SELECT DISTINCT s.lexeme FROM used u, unnest(to_tsvector(heal.text_config(u.name), words)) s WHERE u.name IS NOT NULL;
    ELSIF EXISTS (SELECT FROM pg_catalog.pg_ts_config c WHERE c.cfgname = language) THEN
        RETURN QUERY SELECT s.lexeme FROM unnest(to_tsvector(heal.text_config(language), words)) s;
    ELSE
        RAISE EXCEPTION 'there is no text search configuration %', quote_literal(language)
            USING ERRCODE = 'HEA03', HINT = 'SELECT cfgname FROM pg_ts_config lists them.';
    END IF;
END $$;
COMMENT ON FUNCTION heal.word_stems IS 'Stems of a text''s words, in one language or in every language that documents have.';

-- ts_rank ignores how rare a word is. So it is called for one stem at a time, and multiplied by the stem's inverse document frequency
-- (bench/hybrid.py). Frequencies of common stems come from ANALYZE, those of others from the index. The rarest stems choose the
-- candidates.
CREATE OR REPLACE FUNCTION heal.matching(
    words text, gen_row heal.generation, k int, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL, language text DEFAULT NULL,
    also bigint[] DEFAULT NULL
)
RETURNS TABLE (chunk_id bigint, weight double precision)
LANGUAGE plpgsql STABLE ROWS 50 AS $$
DECLARE
    candidates CONSTANT int := CASE WHEN topic IS NULL AND filter IS NULL THEN 1000 ELSE 10000 END;
    condition text := '';
    bounds record;
BEGIN
    IF topic IS NOT NULL THEN
        bounds := heal.topic_interval(gen_row, topic);
        condition := format(' AND v.leaf BETWEEN %s AND %s', bounds.first_leaf, bounds.last_leaf);
    END IF;
    IF filter IS NOT NULL THEN
        condition := condition || ' AND heal.shown_document(v.document_id, $4) IS NOT NULL';
    END IF;
    RETURN QUERY EXECUTE format($query$
        WITH common AS MATERIALIZED (
            SELECT e.stem, e.share FROM pg_catalog.pg_stats s, unnest(
                s.most_common_elems::text::text[],
                s.most_common_elem_freqs[1:cardinality(s.most_common_elems::text::text[])]) AS e (stem, share)
            WHERE s.schemaname = 'heal' AND s.tablename = 'chunk' AND s.attname = 'words'
        ), term AS MATERIALIZED (
            SELECT t.stem, t.query, n.rows * coalesce(c.share, (SELECT count(*) FROM heal.chunk x WHERE x.words @@ t.query) / n.rows)
                AS rows, n.rows AS total
            FROM (SELECT s.stem, quote_literal(s.stem)::tsquery AS query FROM heal.word_stems($1, $2) AS s (stem)) t
            LEFT JOIN common c USING (stem)
            CROSS JOIN (SELECT greatest(r.reltuples, 1)::float8 AS rows FROM pg_catalog.pg_class r
                        WHERE r.oid = 'heal.chunk'::regclass) n
            WHERE numnode(t.query) > 0
        ), weighed AS MATERIALIZED (
            SELECT t.stem, t.query, ln(1 + t.total / greatest(t.rows, 1)) AS weight,
                   sum(t.rows) OVER (ORDER BY t.rows, t.stem) <= $3 OR row_number() OVER (ORDER BY t.rows, t.stem) = 1 AS chooses
            FROM term t WHERE t.rows > 0
        ), found AS MATERIALIZED (
            SELECT c.chunk_id, c.words FROM heal.chunk c JOIN heal.%I v ON v.chunk_id = c.chunk_id
            WHERE c.words @@ (SELECT string_agg(quote_literal(w.stem), ' | ')::tsquery FROM weighed w WHERE w.chooses)%s
            LIMIT 10 * $3
        ), candidate AS (
            SELECT f.chunk_id, f.words FROM found f
            UNION ALL SELECT c.chunk_id, c.words FROM heal.chunk c
            WHERE c.chunk_id = ANY ($6) AND NOT EXISTS (SELECT FROM found f WHERE f.chunk_id = c.chunk_id)
        ), ranked AS (
            SELECT c.chunk_id, sum(w.weight * ts_rank('{0.1, 0.1, 0.1, 0.1}', c.words, w.query)) AS weight
            FROM candidate c JOIN weighed w ON c.words @@ w.query GROUP BY c.chunk_id
        )
        SELECT s.chunk_id, s.weight
        FROM (SELECT r.*, row_number() OVER (ORDER BY r.weight DESC, r.chunk_id) AS place FROM ranked r) s
        WHERE s.place <= $5 OR s.chunk_id = ANY ($6) ORDER BY s.place
        $query$, heal.vector_table(gen_row.generation_id), condition)
    USING words, language, candidates, filter, k, also;
END $$;
COMMENT ON FUNCTION heal.matching IS
    'Chunk ids of one generation by the words that they share with a text, where a rare word counts more: the best k, and the chunks of '
    '`also` that share any. The part of heal.hybrid_search that searches by words.';

-- Scores are added and not ranks: rows that human questions have moved are first by a large distance, which a rank does not show
-- (nDCG@10 of SciFact's train questions: .721 by ranks, .764 by vectors alone, .814 by added scores; bench/RESULTS.md).
CREATE OR REPLACE FUNCTION heal.hybrid_search(
    words text, query vector, gen bigint, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL,
    language text DEFAULT NULL, words_weight double precision DEFAULT 0.2
)
RETURNS TABLE (
    chunk_id bigint, document_id bigint, title text, text text, score double precision,
    distance double precision, vector_rank int, word_rank int
)
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation := heal.searchable(gen);
    depth int := least(greatest(50, 5 * k), 1000);
BEGIN
    IF k IS NULL OR k < 1 OR k > 1000 THEN
        RAISE EXCEPTION 'k must be between 1 and 1000, got %', coalesce(k::text, 'null') USING ERRCODE = 'HEA03';
    END IF;
    IF words_weight IS NULL OR NOT words_weight BETWEEN 0 AND 100 THEN
        RAISE EXCEPTION 'words_weight must be between 0 and 100, got %', coalesce(words_weight::text, 'null') USING ERRCODE = 'HEA03';
    END IF;
    RETURN QUERY EXECUTE format($query$
        WITH by_vector AS MATERIALIZED (
            SELECT n.chunk_id, row_number() OVER (ORDER BY n.distance, n.chunk_id)::int AS place
            FROM heal.nearest($1, $2, $3, $4, $5) n
        ), by_words AS MATERIALIZED (
            SELECT m.chunk_id, m.weight / nullif(max(m.weight) OVER (), 0) AS share,
                   row_number() OVER (ORDER BY m.weight DESC, m.chunk_id)::int AS place
            FROM heal.matching($6, $2, $3, $4, $5, $7, ARRAY(SELECT b.chunk_id FROM by_vector b)) m
        ), fused AS (
            SELECT v.chunk_id, v.embedding %s $1::vector(%s) AS distance, b.place AS vector_place, w.place AS word_place,
                   w.share
            FROM by_vector b FULL JOIN by_words w USING (chunk_id) JOIN heal.%I v USING (chunk_id)
        ), best AS (
            SELECT f.*, %s - f.distance + $8 * coalesce(f.share, 0) AS score FROM fused f ORDER BY score DESC, f.chunk_id LIMIT $9
        )
        SELECT f.chunk_id, d.document_id, d.title, c.text, f.score, f.distance, f.vector_place,
               CASE WHEN f.word_place <= $3 THEN f.word_place END
        FROM best f JOIN heal.chunk c ON c.chunk_id = f.chunk_id
        JOIN heal.document d ON d.document_id =
            CASE WHEN $5 IS NULL THEN c.document_id ELSE heal.shown_document(c.document_id, $5) END
        ORDER BY f.score DESC, f.chunk_id
        $query$, CASE gen_row.metric WHEN 'cosine' THEN '<=>' ELSE '<#>' END, gen_row.dims,
        heal.vector_table(gen_row.generation_id), CASE gen_row.metric WHEN 'cosine' THEN 1 ELSE 0 END)
    USING query, gen_row, depth, topic, filter, words, language, words_weight, k;
END $$;
COMMENT ON FUNCTION heal.hybrid_search IS
    'Search by words and vector: the score is the similarity by vector (1 - distance, or the inner product if that is the metric) plus '
    'words_weight times the weight of the shared words, as a share of the largest weight.';

CREATE OR REPLACE FUNCTION heal.topic_search(query vector, gen bigint, k int DEFAULT 10)
RETURNS TABLE (topic_id bigint, parent_id bigint, level int, terms text[], size int, hits int, distance double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation := heal.searchable(gen);
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT t.topic_id, t.parent_id, t.level, t.terms, t.size, count(*)::int, min(n.distance)
         FROM heal.nearest($1, $2, 100) n JOIN heal.%I v ON v.chunk_id = n.chunk_id
         JOIN heal.topic t ON t.topic_run_id = $3 AND t.level > 0 AND v.leaf BETWEEN t.first_leaf AND t.last_leaf
         GROUP BY t.topic_run_id, t.topic_id ORDER BY 6 DESC, 3, 7, 1 LIMIT $4', heal.vector_table(gen))
    USING query, gen_row, gen_row.topic_run_id, k;
END $$;
COMMENT ON FUNCTION heal.topic_search IS
    'The topics that a query belongs to, by the number of the 100 nearest chunks in each topic''s subtree.';
