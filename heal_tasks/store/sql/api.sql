-- Search functions for users. Repeatable: applied again whenever this file changes.

CREATE OR REPLACE FUNCTION heal.vector_table(generation_id bigint, prefix text DEFAULT 'vec')
RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT prefix || '_g' || lpad(generation_id::text, greatest(6, length(generation_id::text)), '0') $$;
COMMENT ON FUNCTION heal.vector_table IS 'Name of a generation''s table: prefix vec (served rows), lex (lexicon) or push (contrastive displacements).';

CREATE OR REPLACE FUNCTION heal.space_table(space_id bigint, prefix text DEFAULT 'base')
RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT prefix || '_s' || lpad(space_id::text, greatest(6, length(space_id::text)), '0') $$;
COMMENT ON FUNCTION heal.space_table IS 'Name of a space''s table: prefix base (vectors of chunks) or question (vectors of questions).';

-- The planned search reads only the columns that it needs, and changes settings by assignments, for which plpgsql prepares no statement:
-- that saves a twentieth of a search for ten. If it finds nothing, the general search raises the error, or searches without an index.
CREATE OR REPLACE FUNCTION heal.search(
    query vector, gen bigint, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL, condition text DEFAULT NULL,
    after jsonb DEFAULT NULL
)
RETURNS TABLE (
    chunk_id bigint, document_id bigint, title text, text text, distance double precision, generation_id bigint
)
LANGUAGE plpgsql STABLE ROWS 10 SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation;
    live record;
    bridge record;
    kept text[];
    changed text;
    candidates int;
    shown bigint[];
    last_distance double precision;
    last_chunk bigint;
    permitted text[] := heal.permitted();
BEGIN
    IF topic IS NULL AND filter IS NULL AND k BETWEEN 1 AND 100 AND condition IS NULL AND after IS NULL AND permitted IS NULL THEN
        SELECT g.index_kind, g.ef_search, g.oversampling, g.dims, g.state INTO live FROM heal.generation g
        WHERE g.generation_id = gen AND g.state IN ('active', 'previous') AND g.dims = vector_dims(query)
          AND vector_norm(query) BETWEEN 0.001 AND 50000;
        candidates := heal.candidates(live.oversampling, k);
        kept := ARRAY[current_setting('hnsw.ef_search', true), current_setting('hnsw.iterative_scan', true),
                      current_setting('enable_seqscan')];
        changed := set_config('hnsw.iterative_scan', 'relaxed_order', true)
            || set_config('hnsw.ef_search', greatest(live.ef_search, 2 * k, least(candidates, 1000))::text, true)
            || set_config('enable_seqscan', heal.seqscan(live.dims, kept[3]), true);
        RETURN QUERY SELECT p.*, gen FROM heal.search_planned(query, gen, live.index_kind, k, candidates) p;
        changed := set_config('hnsw.ef_search', kept[1], true) || set_config('hnsw.iterative_scan', kept[2], true)
            || set_config('enable_seqscan', kept[3], true);
        IF FOUND THEN
            IF live.state = 'previous' THEN
                PERFORM heal.searched(gen);
            END IF;
            RETURN;
        END IF;
    END IF;
    bridge := heal.bridged(ARRAY[query], gen);
    IF bridge.live IS NOT NULL THEN
        RETURN QUERY SELECT s.* FROM heal.search(bridge.mapped[1], bridge.live, k, topic, filter, condition, after) s;
        RETURN;
    END IF;
    IF after IS NULL THEN
        gen_row := heal.searched(gen);
    ELSE
        gen_row := heal.searchable(gen);  -- the search for the first page gives the notice
        SELECT p.* INTO last_distance, last_chunk FROM heal.checked_page(after, gen, 'distance') p;
        shown := ARRAY(SELECT s.chunk_id FROM heal.search(query, gen, k, topic, filter, condition) s);
    END IF;
    RETURN QUERY
        SELECT n.chunk_id, d.document_id, heal.title_line(d.title, c.heading), c.text, n.distance, gen
        FROM heal.nearest(query, gen_row, k, topic, filter, condition, shown => shown, last_distance => last_distance,
                          last_chunk => last_chunk, permitted => permitted) n JOIN heal.chunk c ON c.chunk_id = n.chunk_id
        JOIN heal.document d ON d.document_id =
            CASE WHEN filter IS NULL AND condition IS NULL THEN c.document_id
                 ELSE heal.shown_document(c.document_id, filter, condition, permitted) END
        ORDER BY n.distance, n.chunk_id;
END $$;
COMMENT ON FUNCTION heal.search IS
    'The k chunks nearest to a query vector, pinned to the generation whose encoder made the vector; topic limits the '
    'search to the topic''s subtree, filter to documents whose metadata contain it, condition to documents that meet it; after, the '
    'last row of a page, continues behind it.';

CREATE OR REPLACE FUNCTION heal.search_many(
    queries vector[], gen bigint, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL, condition text DEFAULT NULL
)
RETURNS TABLE (
    query_number int, chunk_id bigint, document_id bigint, title text, text text, distance double precision, generation_id bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation;
    bridge record;
    count bigint := cardinality(queries);
    permitted text[] := heal.permitted();
BEGIN
    IF queries IS NULL OR count > 1000 OR count * heal.checked_k(k) > 100000 THEN
        RAISE EXCEPTION 'search_many takes up to 1000 queries and finds up to 100000 rows, got % queries with k = %',
            coalesce(count::text, 'null'), k USING ERRCODE = 'HEA03', HINT = 'Call it several times.';
    END IF;
    bridge := heal.bridged(queries, gen);
    IF bridge.live IS NOT NULL THEN
        RETURN QUERY SELECT s.* FROM heal.search_many(bridge.mapped, bridge.live, k, topic, filter, condition) s;
        RETURN;
    END IF;
    gen_row := heal.searched(gen);
    PERFORM heal.checked_query(q.query, gen_row, format('query vector %s', q.number))
    FROM unnest(queries) WITH ORDINALITY AS q (query, number);
    RETURN QUERY
        SELECT q.number::int, n.chunk_id, d.document_id, heal.title_line(d.title, c.heading), c.text, n.distance, gen
        FROM unnest(queries) WITH ORDINALITY AS q (query, number)
        CROSS JOIN LATERAL heal.nearest(q.query, gen_row, k, topic, filter, condition, permitted => permitted) n
        JOIN heal.chunk c ON c.chunk_id = n.chunk_id
        JOIN heal.document d ON d.document_id =
            CASE WHEN filter IS NULL AND condition IS NULL THEN c.document_id
                 ELSE heal.shown_document(c.document_id, filter, condition, permitted) END
        ORDER BY q.number, n.distance, n.chunk_id;
END $$;
COMMENT ON FUNCTION heal.search_many IS
    'heal.search for up to 1,000 query vectors, and up to 100,000 rows, in one call; query_number counts them from 1.';

CREATE OR REPLACE FUNCTION heal.similar(
    document bigint, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL, condition text DEFAULT NULL,
    after jsonb DEFAULT NULL
)
RETURNS TABLE (
    chunk_id bigint, document_id bigint, title text, text text, distance double precision, generation_id bigint
)
LANGUAGE plpgsql STABLE ROWS 10 SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation := heal.searchable((SELECT g.generation_id FROM heal.generation g WHERE g.state = 'active'));
    probe vector;
    shown bigint[];
    last_distance double precision;
    last_chunk bigint;
    permitted text[] := heal.permitted();
    canonical bigint := (SELECT coalesce(d.duplicate_of, d.document_id) FROM heal.document d
                         WHERE d.document_id = document AND (permitted IS NULL OR d.acl IS NULL OR d.acl && permitted));
BEGIN
    EXECUTE format('SELECT v.embedding FROM heal.%I v JOIN heal.chunk c USING (chunk_id)
                    WHERE v.document_id = $1 ORDER BY c.ordinal LIMIT 1', heal.vector_table(gen_row.generation_id))
        INTO probe USING canonical;
    IF probe IS NULL THEN
        RAISE EXCEPTION 'document % has no vector in generation %', document, gen_row.generation_id
            USING ERRCODE = 'HEA03', HINT = 'SELECT document_id, title FROM heal.lineage lists the documents that have.';
    END IF;
    IF after IS NOT NULL THEN
        SELECT p.* INTO last_distance, last_chunk FROM heal.checked_page(after, gen_row.generation_id, 'distance') p;
        shown := ARRAY(SELECT s.chunk_id FROM heal.similar(document, k, topic, filter, condition) s);
    END IF;
    RETURN QUERY
        SELECT n.chunk_id, d.document_id, heal.title_line(d.title, c.heading), c.text, n.distance, gen_row.generation_id
        FROM heal.nearest(probe, gen_row, k, topic, filter, condition, canonical, shown => shown, last_distance => last_distance,
                          last_chunk => last_chunk, permitted => permitted) n JOIN heal.chunk c ON c.chunk_id = n.chunk_id
        JOIN heal.document d ON d.document_id =
            CASE WHEN filter IS NULL AND condition IS NULL THEN c.document_id
                 ELSE heal.shown_document(c.document_id, filter, condition, permitted) END
        ORDER BY n.distance, n.chunk_id;
END $$;
COMMENT ON FUNCTION heal.similar IS
    'The k chunks of other documents nearest to a document''s first chunk, in the live generation; needs no encoder.';

CREATE OR REPLACE FUNCTION heal.topic_search(query vector, gen bigint, k int DEFAULT 10)
RETURNS TABLE (topic_id bigint, parent_id bigint, level int, terms text[], size int, hits int, distance double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation;
    bridge record := heal.bridged(ARRAY[query], gen);
BEGIN
    IF bridge.live IS NOT NULL THEN
        RETURN QUERY SELECT s.* FROM heal.topic_search(bridge.mapped[1], bridge.live, k) s;
        RETURN;
    END IF;
    gen_row := heal.searched(gen);
    query := heal.checked_query(query, gen_row);  -- where there are no topics, nothing is searched
    RETURN QUERY EXECUTE format(
        'SELECT t.topic_id, t.parent_id, t.level, t.terms, t.size, count(*)::int, min(n.distance)
         FROM heal.nearest($1, $2, 100, permitted => $5) n JOIN heal.%I v ON v.chunk_id = n.chunk_id
         JOIN heal.topic t ON t.topic_run_id = $3 AND t.level > 0 AND v.leaf BETWEEN t.first_leaf AND t.last_leaf
         GROUP BY t.topic_run_id, t.topic_id ORDER BY 6 DESC, 3, 7, 1 LIMIT $4', heal.vector_table(gen))
    USING query, gen_row, gen_row.topic_run_id, heal.checked_k(k), heal.permitted();
END $$;
COMMENT ON FUNCTION heal.topic_search IS
    'The topics that a query belongs to, by the number of the 100 nearest chunks in each topic''s subtree.';
