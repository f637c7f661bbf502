-- Search by text: the vector of a question by the lexicon, words beside vectors. Repeatable: applied again whenever this file changes.

CREATE OR REPLACE FUNCTION heal.relevance(score double precision, scores double precision[], shares double precision[])
RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE width_bucket(score, scores) WHEN 0 THEN shares[1] WHEN cardinality(scores) THEN shares[cardinality(scores)] ELSE
        shares[width_bucket(score, scores)] + (score - scores[width_bucket(score, scores)])
        * (shares[width_bucket(score, scores) + 1] - shares[width_bucket(score, scores)])
        / (scores[width_bucket(score, scores) + 1] - scores[width_bucket(score, scores)]) END
$$;
COMMENT ON FUNCTION heal.relevance IS
    'Probability that a row answers, by its score: linear between the points of a curve that was fitted to held-out questions; null '
    'without a curve.';

-- A list of numbers in JSON is an array literal but for its brackets. This way the planner puts the expression where the call stands.
CREATE OR REPLACE FUNCTION heal.curve(record jsonb, path text, part text)
RETURNS double precision[] LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT translate(record #>> ARRAY['relevance', path, part], '[]', '{}')::float8[]
$$;
COMMENT ON FUNCTION heal.curve IS
    'Scores or shares of the relevance curve in a lexicon record, for a query path: text or encoder.';

CREATE OR REPLACE FUNCTION heal.query_vector(question text, gen bigint DEFAULT NULL, language text DEFAULT NULL)
RETURNS vector LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation := heal.searchable(
        coalesce(gen, (SELECT g.generation_id FROM heal.generation g WHERE g.state = 'active')));
    total vector := (SELECT sum(s.embedding::vector)
                     FROM heal.question_stems(heal.checked_text(question), gen_row.generation_id, heal.checked_language(language)) s);
BEGIN
    RETURN CASE WHEN vector_norm(total) > 0 THEN l2_normalize(total) END;
END $$;
COMMENT ON FUNCTION heal.query_vector IS
    'The vector of a question by the lexicon of a generation (default: the live one), of unit length; null if the lexicon has none of its '
    'stems.';

-- ts_rank ignores how rare a word is. So it is called for one stem at a time, and multiplied by the stem's inverse document frequency
-- (bench/hybrid.py). The rarest stems choose the candidates.
CREATE OR REPLACE FUNCTION heal.matching(
    words text, gen_row heal.generation, k int, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL, condition text DEFAULT NULL,
    language text DEFAULT NULL, also bigint[] DEFAULT NULL, candidates int DEFAULT 1000, permitted text[] DEFAULT NULL
)
RETURNS TABLE (chunk_id bigint, weight double precision)
LANGUAGE plpgsql STABLE ROWS 50 AS $$
DECLARE
    passing text := '';
    bounds record;
BEGIN
    IF topic IS NOT NULL THEN
        bounds := heal.topic_interval(gen_row, topic);
        passing := format(' AND v.leaf BETWEEN %s AND %s', bounds.first_leaf, bounds.last_leaf);
    END IF;
    IF filter IS NOT NULL OR condition IS NOT NULL THEN
        passing := passing || ' AND heal.shown_document(v.document_id, $3, $8, $9) IS NOT NULL';
    ELSIF permitted IS NOT NULL THEN
        passing := passing || ' AND (SELECT d.acl IS NULL OR d.acl && $9 FROM heal.document d WHERE d.document_id = v.document_id)';
    END IF;
    RETURN QUERY EXECUTE format($query$
        -- || '' reads a large tsvector once; ts_rank would read it anew for every stem.
        WITH term AS MATERIALIZED (
            SELECT s.stem, quote_literal(s.stem)::tsquery AS query, sum(s.chunks) AS chunks, max(s.weight)::float8 AS weight
            FROM heal.question_stems($1, $6, heal.checked_language($2)) s GROUP BY s.stem
        ), weighed AS MATERIALIZED (
            SELECT t.*, sum(t.chunks) OVER (ORDER BY t.chunks, t.stem) <= $7
                   OR $5 IS NULL AND row_number() OVER (ORDER BY t.chunks, t.stem) = 1 AS chooses
            FROM term t WHERE numnode(t.query) > 0 AND t.chunks > 0  -- and not of questions alone
        ), found AS MATERIALIZED (
            SELECT c.chunk_id, c.words || '' AS words FROM heal.chunk c JOIN heal.%I v ON v.chunk_id = c.chunk_id
            WHERE c.words @@ (SELECT string_agg(quote_literal(w.stem), ' | ')::tsquery FROM weighed w WHERE w.chooses)%s
            LIMIT 10 * $7
        ), candidate AS (
            SELECT f.chunk_id, f.words FROM found f
            UNION ALL SELECT c.chunk_id, c.words || '' FROM heal.chunk c
            WHERE c.chunk_id = ANY ($5) AND NOT EXISTS (SELECT FROM found f WHERE f.chunk_id = c.chunk_id)
        ), ranked AS (
            SELECT c.chunk_id, sum(w.weight * ts_rank('{0.1, 0.1, 0.1, 0.1}', c.words, w.query)) AS weight
            FROM candidate c JOIN weighed w ON c.words @@ w.query GROUP BY c.chunk_id
        )
        SELECT s.chunk_id, s.weight
        FROM (SELECT r.*, row_number() OVER (ORDER BY r.weight DESC, r.chunk_id) AS place FROM ranked r) s
        WHERE s.place <= $4 OR s.chunk_id = ANY ($5) ORDER BY s.place
        $query$, heal.vector_table(gen_row.generation_id), passing)
    USING words, language, filter, k, also, gen_row.generation_id, candidates, condition, permitted;
END $$;
COMMENT ON FUNCTION heal.matching IS
    'Chunk ids of one generation by the stems that they share with a text, where a rare stem counts more: the best k of those with its '
    'rarest stems, which at most `candidates` chunks have, and the chunks of `also` that share any. The part of heal.find and '
    'heal.hybrid_search that searches by words.';

-- Scores are added and not ranks: rows that human questions have moved are first by a large distance, which a rank does not show
-- (nDCG@10 of SciFact's train questions: .721 by ranks, .764 by vectors alone, .814 by added scores; bench/RESULTS.md).
CREATE OR REPLACE FUNCTION heal.ranked(
    words text, query vector, gen_row heal.generation, k int, topic bigint, filter jsonb, condition text, language text,
    words_weight double precision, depth int, candidates int,
    shown bigint[] DEFAULT NULL, last_score double precision DEFAULT NULL, last_chunk bigint DEFAULT NULL, permitted text[] DEFAULT NULL
)
RETURNS TABLE (chunk_id bigint, score double precision, distance double precision, vector_rank int, word_rank int)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
DECLARE
    metric text := CASE gen_row.metric WHEN 'cosine' THEN '<=>' ELSE '<#>' END;
BEGIN
    k := heal.checked_k(k);
    IF words_weight IS NULL OR NOT words_weight BETWEEN 0 AND 100 THEN
        RAISE EXCEPTION 'words_weight must be between 0 and 100, got %', coalesce(words_weight::text, 'null') USING ERRCODE = 'HEA03';
    END IF;
    RETURN QUERY EXECUTE format($query$
        WITH by_vector AS MATERIALIZED (
            SELECT n.chunk_id, row_number() OVER (ORDER BY n.distance, n.chunk_id)::int AS place
            FROM heal.nearest($1, $2, $3, $4, $5, $11, permitted => $15) n
        ), by_words AS MATERIALIZED (
            SELECT m.chunk_id, m.weight / nullif(max(m.weight) OVER (), 0) AS share,
                   row_number() OVER (ORDER BY m.weight DESC, m.chunk_id)::int AS place
            FROM heal.matching($6, $2, $3, $4, $5, $11, $7, ARRAY(SELECT b.chunk_id FROM by_vector b), $10, $15) m
        ), fused AS (
            SELECT v.chunk_id, v.embedding %s $1 AS distance, b.place AS vector_place, w.place AS word_place, w.share
            FROM by_vector b FULL JOIN by_words w USING (chunk_id) JOIN heal.%I v USING (chunk_id)
        ), scored AS (
            SELECT f.*, %s - f.distance + $8 * coalesce(f.share, 0) AS score FROM fused f
        )
        SELECT s.chunk_id, s.score, s.distance, s.vector_place, CASE WHEN s.word_place <= $3 THEN s.word_place END
        FROM scored s%s ORDER BY s.score DESC, s.chunk_id LIMIT $9
        $query$, metric, heal.vector_table(gen_row.generation_id), CASE gen_row.metric WHEN 'cosine' THEN 1 ELSE 0 END,
        CASE WHEN shown IS NOT NULL THEN
            ' WHERE s.chunk_id <> ALL ($12) AND ($14 = ANY ($12) OR s.score < $13 OR s.score = $13 AND s.chunk_id > $14)' END)
    USING query, gen_row, depth, topic, filter, words, language, words_weight, k, candidates, condition, shown, last_score, last_chunk,
        permitted;
END $$;
COMMENT ON FUNCTION heal.ranked IS
    'The k best chunks of one generation by similarity to a vector plus words_weight times the weight of the shared words, as a share of '
    'the largest weight, among the `depth` nearest and those with rare stems; the core of heal.find and heal.hybrid_search. shown: chunks '
    'of the first page, which are left out; last_score, last_chunk: only rows behind these.';

CREATE OR REPLACE FUNCTION heal.hybrid_search(
    words text, query vector, gen bigint, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL,
    language text DEFAULT NULL, words_weight double precision DEFAULT NULL, lexicon_weight double precision DEFAULT NULL,
    condition text DEFAULT NULL, after jsonb DEFAULT NULL
)
RETURNS TABLE (
    chunk_id bigint, document_id bigint, title text, text text, score double precision,
    distance double precision, vector_rank int, word_rank int, relevance double precision, generation_id bigint
)
LANGUAGE plpgsql STABLE ROWS 10 SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation;
    bridge record := heal.bridged(ARRAY[query], gen);
    by_lexicon vector;
    scores double precision[];
    shares double precision[];
    shown bigint[];
    last_score double precision;
    last_chunk bigint;
    permitted text[] := heal.permitted();
BEGIN
    IF bridge.live IS NOT NULL THEN
        RETURN QUERY SELECT s.* FROM heal.hybrid_search(
            words, bridge.mapped[1], bridge.live, k, topic, filter, language, words_weight, lexicon_weight, condition, after) s;
        RETURN;
    END IF;
    gen_row := heal.searchable(gen);
    by_lexicon := heal.query_vector(words, gen, language);
    scores := heal.curve(gen_row.lexicon, 'encoder', 'scores');
    shares := heal.curve(gen_row.lexicon, 'encoder', 'shares');
    k := heal.checked_k(k);
    query := heal.checked_query(query, gen_row);
    IF after IS NULL THEN
        PERFORM heal.searched(gen);
    ELSE  -- the search for the first page gives the notice
        SELECT p.* INTO last_score, last_chunk FROM heal.checked_page(after, gen, 'score') p;
        shown := ARRAY(SELECT h.chunk_id FROM heal.hybrid_search(
            words, query, gen, k, topic, filter, language, words_weight, lexicon_weight, condition) h);
    END IF;
    lexicon_weight := coalesce(lexicon_weight, (gen_row.lexicon ->> 'lexicon_weight')::float8);
    IF NOT lexicon_weight BETWEEN 0 AND 100 THEN
        RAISE EXCEPTION 'lexicon_weight must be between 0 and 100, got %', lexicon_weight USING ERRCODE = 'HEA03';
    END IF;
    IF by_lexicon IS NOT NULL AND lexicon_weight > 1e-9 THEN  -- a smaller one changes nothing, and may be no `real`
        query := l2_normalize(l2_normalize(query) + array_fill(lexicon_weight::real, ARRAY[gen_row.dims])::vector * by_lexicon);
    END IF;
    RETURN QUERY
        SELECT f.chunk_id, d.document_id, heal.title_line(d.title, c.heading), c.text, f.score, f.distance, f.vector_rank, f.word_rank,
               heal.relevance(f.score, scores, shares), gen
        FROM heal.ranked(words, query, gen_row, k, topic, filter, condition, language,
                         coalesce(words_weight, (gen_row.lexicon ->> 'words_weight')::float8, 0.1),
                         CASE WHEN after IS NULL THEN least(greatest(50, 5 * k), 1000) ELSE 1000 END,
                         CASE WHEN coalesce(topic::text, filter::text, condition) IS NULL THEN 1000 ELSE 10000 END,
                         shown, last_score, last_chunk, permitted) f
        JOIN heal.chunk c ON c.chunk_id = f.chunk_id
        JOIN heal.document d ON d.document_id =
            CASE WHEN filter IS NULL AND condition IS NULL THEN c.document_id
                 ELSE heal.shown_document(c.document_id, filter, condition, permitted) END
        ORDER BY f.score DESC, f.chunk_id;
END $$;
COMMENT ON FUNCTION heal.hybrid_search IS
    'Search by words and an encoder''s vector, to which lexicon_weight times the lexicon''s vector is added (default: the generation''s): '
    'the score is the similarity by vector (1 - distance, or the inner product if that is the metric) plus words_weight (default: the '
    'generation''s) times the weight of the shared words, as a share of the largest weight.';

CREATE OR REPLACE FUNCTION heal.find(
    question text, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL, language text DEFAULT NULL,
    condition text DEFAULT NULL, after jsonb DEFAULT NULL
)
RETURNS TABLE (
    chunk_id bigint, document_id bigint, title text, text text, score double precision, distance double precision,
    relevance double precision, generation_id bigint
)
LANGUAGE plpgsql STABLE ROWS 10 SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation;
    words_weight double precision;
    asked record;
    scores double precision[];
    shares double precision[];
    kept text[];
    changed text;
    shown bigint[];
    last_score double precision;
    last_chunk bigint;
    permitted text[] := heal.permitted();
    answered boolean;
BEGIN
    SELECT g.* INTO gen_row FROM heal.generation g WHERE g.state = 'active';
    IF gen_row.generation_id IS NULL THEN
        gen_row := heal.searchable(NULL);  -- raises the error
    END IF;
    k := heal.checked_k(k);
    question := heal.checked_text(question);
    filter := heal.checked_filter(filter);
    condition := heal.checked_condition(condition);
    IF topic IS NOT NULL THEN
        PERFORM heal.topic_interval(gen_row, topic);
    END IF;
    IF after IS NOT NULL THEN
        SELECT p.* INTO last_score, last_chunk FROM heal.checked_page(after, gen_row.generation_id, 'score') p;
        shown := ARRAY(SELECT h.chunk_id FROM heal.find(question, k, topic, filter, language, condition) h);
    END IF;
    words_weight := coalesce((gen_row.lexicon ->> 'words_weight')::float8, 0.1);
    scores := heal.curve(gen_row.lexicon, 'text', 'scores');
    shares := heal.curve(gen_row.lexicon, 'text', 'shares');
    -- A stem that the lexicon has in two languages is one word.
    SELECT sum(s.vector) AS vector, array_agg(quote_literal(s.stem)::tsquery) FILTER (WHERE s.chunks > 0) AS stems,
           array_agg(s.weight) FILTER (WHERE s.chunks > 0) AS weights,
           string_agg(quote_literal(s.stem), ' | ') FILTER (WHERE s.chunks > 0 AND s.before <= 20)::tsquery AS rare
    INTO asked
    FROM (SELECT q.stem, sum(q.embedding::vector) AS vector, max(q.weight) AS weight, sum(q.chunks) AS chunks,
                 sum(sum(q.chunks)) OVER (ORDER BY sum(q.chunks), q.stem) AS before
          FROM heal.question_stems(question, gen_row.generation_id, heal.checked_language(language)) q GROUP BY q.stem) s;
    IF coalesce(vector_norm(asked.vector), 0) = 0 THEN
        IF gen_row.lexicon IS NULL THEN
            RAISE NOTICE 'no row: generation % has no lexicon', gen_row.generation_id
                USING HINT = 'The next generation that heal_realign publishes has one; until then use heal.search.';
        ELSE
            RAISE NOTICE 'no row: the lexicon has none of the words of this question'
                USING HINT = 'SELECT * FROM heal.explain_find(question) shows which words count.';
        END IF;
        RETURN;
    END IF;
    asked.vector := l2_normalize(asked.vector);
    IF topic IS NULL AND filter IS NULL AND condition IS NULL AND after IS NULL AND k BETWEEN 1 AND 10 AND gen_row.index_kind <> 'none'
        AND (permitted IS NULL OR gen_row.index_kind <> 'bit' AND heal.widely_readable(permitted)) THEN
        kept := ARRAY[current_setting('hnsw.ef_search', true), current_setting('hnsw.iterative_scan', true),
                      current_setting('enable_seqscan')];
        changed := set_config('hnsw.iterative_scan', 'relaxed_order', true)
            || set_config('hnsw.ef_search', greatest(gen_row.ef_search, CASE WHEN permitted IS NULL THEN 60 ELSE 200 END,
                                                     least(heal.candidates(gen_row.oversampling, 20), 1000))::text, true)
            || set_config('enable_seqscan', heal.seqscan(gen_row.dims, kept[3]), true);
        RETURN QUERY
            SELECT p.*, heal.relevance(p.score, scores, shares), gen_row.generation_id
            FROM heal.find_planned(asked.vector, gen_row.generation_id, gen_row.index_kind, k, heal.candidates(gen_row.oversampling, 20),
                                   words_weight, asked.rare, asked.stems, asked.weights, permitted) p;
        answered := FOUND;
        changed := set_config('hnsw.ef_search', kept[1], true) || set_config('hnsw.iterative_scan', kept[2], true)
            || set_config('enable_seqscan', kept[3], true);
        IF answered OR permitted IS NULL THEN
            RETURN;
        END IF;
    END IF;
    RETURN QUERY
        SELECT f.chunk_id, d.document_id, heal.title_line(d.title, c.heading), c.text, f.score, f.distance,
               heal.relevance(f.score, scores, shares), gen_row.generation_id
        FROM heal.ranked(question, asked.vector, gen_row, k, topic, filter, condition, language, words_weight,
                         CASE WHEN after IS NULL THEN least(greatest(20, 2 * k), 1000) ELSE 1000 END, 20,
                         shown, last_score, last_chunk, permitted) f
        JOIN heal.chunk c ON c.chunk_id = f.chunk_id
        JOIN heal.document d ON d.document_id =
            CASE WHEN filter IS NULL AND condition IS NULL THEN c.document_id
                 ELSE heal.shown_document(c.document_id, filter, condition, permitted) END
        ORDER BY f.score DESC, f.chunk_id;
END $$;
COMMENT ON FUNCTION heal.find IS
    'The k chunks that answer a question in words best, in the live generation: by the vector that the lexicon gives the question and by '
    'the words themselves. Needs no model and no vector. relevance: the probability that the chunk answers.';
