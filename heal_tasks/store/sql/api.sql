-- Search functions for users. Repeatable: applied again whenever this file changes.
-- Errors: HEA01 the generation is not searchable, HEA02 the query vector has the wrong dimension or length, HEA03 bad argument.

CREATE OR REPLACE FUNCTION heal.vector_table(generation_id bigint, prefix text DEFAULT 'vec')
RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT prefix || '_g' || lpad(generation_id::text, greatest(6, length(generation_id::text)), '0') $$;
COMMENT ON FUNCTION heal.vector_table IS 'Name of a generation''s table: prefix vec (served rows), lex (lexicon) or push (contrastive displacements).';

CREATE OR REPLACE FUNCTION heal.space_table(space_id bigint, prefix text DEFAULT 'base')
RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT prefix || '_s' || lpad(space_id::text, greatest(6, length(space_id::text)), '0') $$;
COMMENT ON FUNCTION heal.space_table IS 'Name of a space''s table: prefix base (vectors of chunks) or question (vectors of questions).';

CREATE OR REPLACE FUNCTION heal.searchable(gen bigint, OUT row_ heal.generation)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    active bigint;
BEGIN
    SELECT * INTO row_ FROM heal.generation g WHERE g.generation_id = gen;
    IF row_.generation_id IS NULL OR row_.state NOT IN ('active', 'previous') THEN
        SELECT g.generation_id INTO active FROM heal.generation g WHERE g.state = 'active';
        RAISE EXCEPTION 'generation % is not searchable (%)', coalesce(gen::text, 'null'), coalesce(row_.state, 'unknown')
            USING ERRCODE = 'HEA01',
                  HINT = CASE WHEN active IS NULL
                      THEN 'No generation is active yet; run the heal_realign DAG.'
                      ELSE format('Generation %s is active; load its encoder (SELECT model_uri FROM heal.generation_status '
                                  'WHERE state = ''active'') and encode the query again.', active) END;
    END IF;
END $$;
COMMENT ON FUNCTION heal.searchable IS 'The row of an active or previous generation; error HEA01 for any other.';

CREATE OR REPLACE FUNCTION heal.checked_k(k int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF k IS NULL OR k < 1 OR k > 1000 THEN
        RAISE EXCEPTION 'k must be between 1 and 1000, got %', coalesce(k::text, 'null') USING ERRCODE = 'HEA03';
    END IF;
    RETURN k;
END $$;
COMMENT ON FUNCTION heal.checked_k IS 'A number of rows to find; error HEA03 for one that is not between 1 and 1000.';

-- A vector without length has no nearest rows. Beyond these lengths single precision, or half precision in an index, under- or overflows.
CREATE OR REPLACE FUNCTION heal.checked_query(query vector, gen_row heal.generation, name text DEFAULT 'the query vector')
RETURNS vector LANGUAGE plpgsql STABLE AS $$
DECLARE
    problem text := CASE
        WHEN query IS NULL THEN format('has no dimensions, generation %s has %s', gen_row.generation_id, gen_row.dims)
        WHEN vector_dims(query) <> gen_row.dims
            THEN format('has %s dimensions, generation %s has %s', vector_dims(query), gen_row.generation_id, gen_row.dims)
        WHEN NOT vector_norm(query) BETWEEN 0.001 AND 50000
            THEN format('has length %s, which must be between 0.001 and 50000', vector_norm(query)) END;
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION '% %', name, problem USING ERRCODE = 'HEA02', HINT = format('Encode the query with %s.',
            (SELECT s.model_uri FROM heal.space s WHERE s.space_id = gen_row.space_id));
    END IF;
    RETURN (query);
END $$;
COMMENT ON FUNCTION heal.checked_query IS 'A query vector; error HEA02 for one of another dimension or without length.';

CREATE OR REPLACE FUNCTION heal.checked_filter(filter jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF jsonb_typeof(filter) <> 'object' THEN
        RAISE EXCEPTION 'filter must be a JSON object, got %', left(filter::text, 80) USING ERRCODE = 'HEA03',
            HINT = 'An example is {"language": "english"}; null means no filter.';
    ELSIF pg_column_size(filter) > 65536 THEN
        RAISE EXCEPTION 'filter has % bytes, and 65536 are the most', pg_column_size(filter) USING ERRCODE = 'HEA03';
    END IF;
    RETURN filter;
END $$;
COMMENT ON FUNCTION heal.checked_filter IS 'A filter of metadata, or null; error HEA03 for one that is no JSON object of at most 64 KiB.';

CREATE OR REPLACE FUNCTION heal.checked_text(question text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF length(question) > 32768 THEN
        RAISE EXCEPTION 'the text has % characters, and 32768 are the most', length(question) USING ERRCODE = 'HEA03',
            HINT = 'Search with a question or a passage of it.';
    END IF;
    RETURN question;
END $$;
COMMENT ON FUNCTION heal.checked_text IS 'A text to search with, or null; error HEA03 for one of more than 32,768 characters.';

CREATE OR REPLACE FUNCTION heal.topic_interval(gen_row heal.generation, topic bigint, OUT first_leaf int, OUT last_leaf int)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT t.first_leaf, t.last_leaf INTO first_leaf, last_leaf
    FROM heal.topic t WHERE t.topic_run_id = gen_row.topic_run_id AND t.topic_id = topic;
    IF first_leaf IS NULL THEN
        RAISE EXCEPTION 'generation % has no topic %', gen_row.generation_id, topic
            USING ERRCODE = 'HEA03', HINT = 'SELECT topic_id, terms FROM heal.topics lists the live generation''s topics.';
    END IF;
END $$;
COMMENT ON FUNCTION heal.topic_interval IS 'Leaf interval of a topic''s subtree.';

-- The number of rows that pass topic and filter decides the method. Up to `few` rows are found by B-tree and compared one by one:
-- exact, and measured at 2 to 3 ms per thousand (384 dimensions, two slow cores). More are searched in the index, by an iterative
-- scan until two thousand rows have passed: in a far subtree with a quarter to a half of 120,000 rows the first ten that pass had a
-- recall of .56 to .71, the best ten of two thousand .98 (bench/filters.py). A scan that ends earlier has met a limit; then every
-- row that passes is compared after all.
-- The KNN block is narrow and has no join, which would lose the index. It is not sorted here, because every caller sorts.
-- ROWS 10: with the default of 1000 the planner reads all chunks for a hash join (measured: 21 ms instead of 5 on 20,000 rows).
CREATE OR REPLACE FUNCTION heal.nearest(
    query vector, gen_row heal.generation, k int, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL,
    except_document bigint DEFAULT NULL, exact boolean DEFAULT false, few int DEFAULT 50000
)
RETURNS TABLE (chunk_id bigint, distance double precision)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
DECLARE
    filtered boolean := topic IS NOT NULL OR filter IS NOT NULL;
    source text := format('heal.%I', heal.vector_table(gen_row.generation_id));
    operator text := CASE gen_row.metric WHEN 'cosine' THEN '<=>' ELSE '<#>' END;
    gap text := format('v.embedding %s $1::vector(%s)', operator, gen_row.dims);
    indexed text := CASE gen_row.index_kind WHEN 'halfvec'
        THEN format('v.embedding::halfvec(%2$s) %1$s $1::halfvec(%2$s)', operator, gen_row.dims) ELSE gap END;
    condition text := '';
    documents bigint[];
    bounds record;
    kept text[] := ARRAY[current_setting('hnsw.ef_search', true), current_setting('hnsw.iterative_scan', true),
                         current_setting('hnsw.max_scan_tuples', true), current_setting('hnsw.scan_mem_multiplier', true)];
BEGIN
    k := heal.checked_k(k);
    query := heal.checked_query(query, gen_row);
    filter := heal.checked_filter(filter);
    IF topic IS NOT NULL THEN
        bounds := heal.topic_interval(gen_row, topic);
        condition := format(' AND v.leaf BETWEEN %s AND %s', bounds.first_leaf, bounds.last_leaf);
    END IF;
    IF filter IS NOT NULL THEN
        documents := ARRAY(SELECT coalesce(d.duplicate_of, d.document_id) FROM heal.document d
                           WHERE d.metadata @> filter AND d.deleted_at IS NULL LIMIT few + 1);
        condition := condition || CASE WHEN cardinality(documents) <= few THEN ' AND v.document_id = ANY ($3)' ELSE
            ' AND (SELECT bool_or(d.metadata @> $4) FROM heal.document d WHERE v.document_id IN (d.document_id, d.duplicate_of))' END;
    END IF;
    exact := exact OR gen_row.index_kind = 'none';
    IF NOT exact AND filtered AND coalesce(cardinality(documents), 0) <= few THEN
        EXECUTE format('SELECT count(*) <= %s FROM (SELECT FROM %s v WHERE true%s LIMIT %s) s', few, source, condition, few + 1)
            INTO exact USING query, k, documents, filter;
    END IF;
    IF except_document IS NOT NULL THEN
        condition := condition || format(' AND v.document_id <> %s', except_document);
    END IF;
    IF NOT exact THEN
        PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search',
            CASE WHEN filtered THEN 1000 ELSE greatest(gen_row.ef_search, least(2 * k, 1000)) END::text, true);
        IF filtered THEN
            PERFORM set_config('hnsw.max_scan_tuples', '100000', true), set_config('hnsw.scan_mem_multiplier', '16', true);
            RETURN QUERY EXECUTE format(
                'WITH hit AS MATERIALIZED (SELECT v.chunk_id, %1$s AS distance FROM %2$s v WHERE true%3$s ORDER BY %4$s LIMIT $5)
                 SELECT hit.chunk_id, hit.distance FROM hit WHERE (SELECT count(*) FROM hit) = $5
                 ORDER BY hit.distance + 0, hit.chunk_id LIMIT $2', gap, source, condition, indexed)
            USING query, k, documents, filter, greatest(2000, 10 * k);
            exact := NOT FOUND;
            PERFORM set_config('hnsw.max_scan_tuples', kept[3], true), set_config('hnsw.scan_mem_multiplier', kept[4], true);
        ELSE
            RETURN QUERY EXECUTE format(
                'SELECT v.chunk_id, %1$s AS distance FROM %2$s v WHERE true%3$s ORDER BY %4$s LIMIT $2',
                gap, source, condition, indexed)
            USING query, k;
        END IF;
        PERFORM set_config('hnsw.ef_search', kept[1], true), set_config('hnsw.iterative_scan', kept[2], true);
    END IF;
    IF exact THEN
        RETURN QUERY EXECUTE format(
            'SELECT s.chunk_id, s.distance
             FROM (SELECT v.chunk_id, %1$s AS distance FROM %2$s v WHERE true%3$s OFFSET 0) s  -- computed once
             ORDER BY s.distance, s.chunk_id LIMIT $2', gap, source, condition)
        USING query, k, documents, filter;
    END IF;
END $$;
COMMENT ON FUNCTION heal.nearest IS
    'Nearest chunk ids of one generation, in no order; the core of the search functions. exact: compare with every row that '
    'passes; few: the largest number of rows that are compared one by one because of a topic or filter.';

-- Called only if there is a filter: called for each hit it took a fifth of the time of a search.
CREATE OR REPLACE FUNCTION heal.shown_document(document bigint, filter jsonb)
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT d.document_id FROM heal.document d
    WHERE document IN (d.document_id, d.duplicate_of) AND d.metadata @> filter AND d.deleted_at IS NULL
    ORDER BY d.duplicate_of NULLS FIRST, d.document_id LIMIT 1
$$;
COMMENT ON FUNCTION heal.shown_document IS
    'The document to show for a hit under a filter: of the document and its exact duplicates one that passes the filter, or none.';

-- The planned search reads only the columns that it needs, and changes settings by assignments, for which plpgsql prepares no statement:
-- that saves a twentieth of a search for ten. If it finds nothing, the general search raises the error, or searches without an index.
CREATE OR REPLACE FUNCTION heal.search(
    query vector, gen bigint, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL
)
RETURNS TABLE (
    chunk_id bigint, document_id bigint, title text, text text, distance double precision, generation_id bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation;
    live record;
    kept text[];
    changed text;
BEGIN
    IF topic IS NULL AND filter IS NULL AND k BETWEEN 1 AND 100 THEN
        SELECT g.index_kind, g.ef_search INTO live FROM heal.generation g
        WHERE g.generation_id = gen AND g.state IN ('active', 'previous') AND g.dims = vector_dims(query)
          AND vector_norm(query) BETWEEN 0.001 AND 50000;
        kept := ARRAY[current_setting('hnsw.ef_search', true), current_setting('hnsw.iterative_scan', true)];
        changed := set_config('hnsw.iterative_scan', 'relaxed_order', true)
            || set_config('hnsw.ef_search', greatest(live.ef_search, 2 * k)::text, true);
        RETURN QUERY SELECT p.*, gen FROM heal.search_planned(query, gen, live.index_kind, k) p;
        changed := set_config('hnsw.ef_search', kept[1], true) || set_config('hnsw.iterative_scan', kept[2], true);
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    gen_row := heal.searchable(gen);
    RETURN QUERY
        SELECT n.chunk_id, d.document_id, d.title, c.text, n.distance, gen_row.generation_id
        FROM heal.nearest(query, gen_row, k, topic, filter) n JOIN heal.chunk c ON c.chunk_id = n.chunk_id
        JOIN heal.document d ON d.document_id =
            CASE WHEN filter IS NULL THEN c.document_id ELSE heal.shown_document(c.document_id, filter) END
        ORDER BY n.distance, n.chunk_id;
END $$;
COMMENT ON FUNCTION heal.search IS
    'The k chunks nearest to a query vector, pinned to the generation whose encoder made the vector; topic limits the '
    'search to the topic''s subtree, filter to documents whose metadata contain it.';

CREATE OR REPLACE FUNCTION heal.search_many(
    queries vector[], gen bigint, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL
)
RETURNS TABLE (
    query_number int, chunk_id bigint, document_id bigint, title text, text text, distance double precision, generation_id bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation := heal.searchable(gen);
    count bigint := cardinality(queries);
BEGIN
    IF queries IS NULL OR count > 1000 OR count * heal.checked_k(k) > 100000 THEN
        RAISE EXCEPTION 'search_many takes up to 1000 queries and finds up to 100000 rows, got % queries with k = %',
            coalesce(count::text, 'null'), k USING ERRCODE = 'HEA03', HINT = 'Call it several times.';
    END IF;
    PERFORM heal.checked_query(q.query, gen_row, format('query vector %s', q.number))
    FROM unnest(queries) WITH ORDINALITY AS q (query, number);
    RETURN QUERY
        SELECT q.number::int, n.chunk_id, d.document_id, d.title, c.text, n.distance, gen
        FROM unnest(queries) WITH ORDINALITY AS q (query, number)
        CROSS JOIN LATERAL heal.nearest(q.query, gen_row, k, topic, filter) n JOIN heal.chunk c ON c.chunk_id = n.chunk_id
        JOIN heal.document d ON d.document_id =
            CASE WHEN filter IS NULL THEN c.document_id ELSE heal.shown_document(c.document_id, filter) END
        ORDER BY q.number, n.distance, n.chunk_id;
END $$;
COMMENT ON FUNCTION heal.search_many IS
    'heal.search for up to 1,000 query vectors, and up to 100,000 rows, in one call; query_number counts them from 1.';

CREATE OR REPLACE FUNCTION heal.similar(
    document bigint, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL
)
RETURNS TABLE (
    chunk_id bigint, document_id bigint, title text, text text, distance double precision, generation_id bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation := heal.searchable((SELECT g.generation_id FROM heal.generation g WHERE g.state = 'active'));
    probe vector;
    canonical bigint := (SELECT coalesce(d.duplicate_of, d.document_id) FROM heal.document d WHERE d.document_id = document);
BEGIN
    EXECUTE format('SELECT v.embedding FROM heal.%I v JOIN heal.chunk c USING (chunk_id)
                    WHERE v.document_id = $1 ORDER BY c.ordinal LIMIT 1', heal.vector_table(gen_row.generation_id))
        INTO probe USING canonical;
    IF probe IS NULL THEN
        RAISE EXCEPTION 'document % has no vector in generation %', document, gen_row.generation_id
            USING ERRCODE = 'HEA03', HINT = 'SELECT document_id, title FROM heal.lineage lists the documents that have.';
    END IF;
    RETURN QUERY
        SELECT n.chunk_id, d.document_id, d.title, c.text, n.distance, gen_row.generation_id
        FROM heal.nearest(probe, gen_row, k, topic, filter, canonical) n JOIN heal.chunk c ON c.chunk_id = n.chunk_id
        JOIN heal.document d ON d.document_id =
            CASE WHEN filter IS NULL THEN c.document_id ELSE heal.shown_document(c.document_id, filter) END
        ORDER BY n.distance, n.chunk_id;
END $$;
COMMENT ON FUNCTION heal.similar IS
    'The k chunks of other documents nearest to a document''s first chunk, in the live generation; needs no encoder.';
