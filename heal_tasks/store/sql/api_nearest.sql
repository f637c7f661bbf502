-- The core of the searches by vector: what is compared, by index or one by one. Repeatable: applied again whenever this file changes.

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

-- An index of bits orders by signs alone: a search fetches more rows from it and orders them by their full vectors. The larger k, the
-- fewer are needed for each: of 9,714 MiniLM vectors 16 times ten have .98 of the best ten, 5 times a thousand .99 of the best thousand.
CREATE OR REPLACE FUNCTION heal.candidates(oversampling int, k int) RETURNS int LANGUAGE sql IMMUTABLE AS
$$ SELECT least(oversampling * greatest(k, 10), greatest(2000, 5 * k)) $$;
COMMENT ON FUNCTION heal.candidates IS 'Rows that a search for k fetches from an index of bits, to compare their full vectors.';

CREATE OR REPLACE FUNCTION heal.index_order(gen_row heal.generation, kind text, query text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT format(CASE kind WHEN 'bit' THEN 'binary_quantize(v.embedding)::bit(%2$s) <~> binary_quantize(%3$s::vector(%2$s))::bit(%2$s)'
                  WHEN 'halfvec' THEN 'v.embedding::halfvec(%2$s) %1$s %3$s::vector(%2$s)::halfvec(%2$s)'
                  ELSE 'v.embedding %1$s %3$s::vector(%2$s)' END,
                  CASE gen_row.metric WHEN 'cosine' THEN '<=>' ELSE '<#>' END, gen_row.dims, query)
$$;
COMMENT ON FUNCTION heal.index_order IS
    'What an index of that kind orders the rows v of a generation by; query: the name of the vector in the statement. Kind vector: the distance.';

-- The number of rows that pass topic, filter and condition decides the method. Up to `few` rows are found by B-tree and compared one by
-- one: exact, and measured at 2 to 3 ms per thousand (384 dimensions, two slow cores). More are searched in the index, by an iterative
-- scan until two thousand rows have passed: in a far subtree with a quarter to a half of 120,000 rows the first ten that pass had a
-- recall of .56 to .71, the best ten of two thousand .98 (bench/filters.py). A scan that ends earlier has met a limit; then every
-- row that passes is compared after all. Pages after the first are searched in the same way.
-- Lists of readers alone, with 40,000 rows (bench/permissions.py): documents that few may read are listed and compared. Of a fifth of all rows
-- the nearest 100 have ten in 2 ms, where two thousand that pass took 150 ms; 400 are tried next, unless none passed: far from
-- what may be read the index had a recall of .94. Then 20,000 are compared, and for readers of more documents the index is searched for 200 that pass.
-- The KNN block is narrow and has no join, which would lose the index. It is not sorted here, because every caller sorts.
CREATE OR REPLACE FUNCTION heal.nearest_statements(
    query vector, gen_row heal.generation, k int, topic bigint, filter jsonb, condition text, except_document bigint, exact boolean,
    few int, shown bigint[], last_chunk bigint, permitted text[],
    listed int, OUT near text, OUT depths int[], OUT needed int, OUT indexed text, OUT compared text, OUT documents bigint[],
    OUT wanted int
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    source text := format('heal.%I', heal.vector_table(gen_row.generation_id));
    gap text := heal.index_order(gen_row, 'vector', '$1');
    passing text := '';
    readable text := CASE WHEN permitted IS NOT NULL THEN '(d.acl IS NULL OR d.acl && $9)' END;
    by_index text := heal.index_order(gen_row, gen_row.index_kind, '$1');
    bounds record;
    many boolean := topic IS NOT NULL OR filter IS NOT NULL OR condition IS NOT NULL OR shown IS NOT NULL;
BEGIN
    PERFORM heal.checked_k(k), heal.checked_query(query, gen_row), heal.checked_filter(filter), heal.checked_condition(condition);
    few := least(few, 50000 * 384 / gen_row.dims);  -- the same time whatever the dimensions
    -- Rows that pass, from the index. Of rows far from the question, as those that may be read can be, bits tell less: with the usual number
    -- of candidates the recall was .87.
    needed := CASE gen_row.index_kind WHEN 'bit'
        THEN heal.candidates(CASE WHEN permitted IS NULL THEN 1 ELSE 4 END * gen_row.oversampling, k) ELSE k END;
    exact := exact OR gen_row.index_kind = 'none';
    IF topic IS NOT NULL THEN
        bounds := heal.topic_interval(gen_row, topic);
        passing := format(' AND v.leaf BETWEEN %s AND %s', bounds.first_leaf, bounds.last_leaf);
    END IF;
    IF condition IS NOT NULL OR filter IS NOT NULL AND permitted IS NOT NULL THEN
        EXECUTE format('SELECT ARRAY(SELECT coalesce(d.duplicate_of, d.document_id) FROM heal.document d
                                     WHERE %s AND d.deleted_at IS NULL LIMIT $3)',
                       concat_ws(' AND ', CASE WHEN filter IS NOT NULL THEN 'd.metadata @> $1' END,
                                 CASE WHEN condition IS NOT NULL THEN 'heal.meets(d, $2)' END, replace(readable, '$9', '$4')))
            INTO documents USING filter, condition, few + 1, permitted;
    ELSIF filter IS NOT NULL THEN
        documents := ARRAY(SELECT coalesce(d.duplicate_of, d.document_id) FROM heal.document d
                           WHERE d.metadata @> filter AND d.deleted_at IS NULL LIMIT few + 1);
    ELSIF permitted IS NOT NULL AND listed > 0 THEN
        documents := heal.few_readable(permitted, least(listed, few));
    END IF;
    IF cardinality(documents) <= few THEN
        passing := passing || ' AND v.document_id = ANY ($3)';
    ELSIF documents IS NOT NULL THEN
        passing := passing || format(
            ' AND (SELECT bool_or(%s) FROM heal.document d WHERE v.document_id IN (d.document_id, d.duplicate_of))',
            concat_ws(' AND ', CASE WHEN filter IS NOT NULL THEN 'd.metadata @> $4' END,
                      CASE WHEN condition IS NOT NULL THEN 'heal.meets(d, $5)' END, readable));
    END IF;
    IF NOT exact AND (topic IS NOT NULL OR documents IS NOT NULL) AND coalesce(cardinality(documents), 0) <= few THEN
        EXECUTE format('SELECT count(*) <= %s FROM (SELECT FROM %s v WHERE true%s LIMIT %s) s', few, source, passing, few + 1)
            INTO exact USING query, k, documents, filter, condition;
    END IF;
    IF permitted IS NOT NULL AND documents IS NULL THEN
        passing := passing || format(' AND (SELECT %s FROM heal.document d WHERE d.document_id = v.document_id)', readable);
    END IF;
    IF except_document IS NOT NULL THEN
        passing := passing || format(' AND v.document_id <> %s', except_document);
    END IF;
    IF shown IS NOT NULL THEN
        passing := passing || ' AND v.chunk_id <> ALL ($6)';
        IF last_chunk <> ALL (shown) THEN
            passing := passing || format(' AND (%s, v.chunk_id) > ($7, $8)', gap);
        END IF;
    END IF;
    wanted := CASE WHEN many THEN greatest(2000, 10 * k) WHEN permitted IS NOT NULL THEN greatest(200, 20 * k, needed) END;
    IF NOT exact AND NOT many AND permitted IS NOT NULL AND documents IS NULL THEN
        depths := ARRAY[greatest(100, 7 * needed), greatest(400, 20 * needed)];
        near := format(
            'WITH near AS MATERIALIZED (SELECT v.chunk_id, v.document_id, %1$s AS distance FROM %2$s v WHERE true%3$s ORDER BY %4$s LIMIT $10),
             hit AS MATERIALIZED (SELECT n.chunk_id, n.distance FROM near n JOIN heal.document d ON d.document_id = n.document_id WHERE %5$s),
             best AS (SELECT hit.chunk_id, hit.distance FROM hit ORDER BY hit.distance, hit.chunk_id LIMIT $2)
             SELECT (SELECT count(*)::int FROM hit), coalesce(array_agg(best.chunk_id), ''{}''), coalesce(array_agg(best.distance), ''{}'') FROM best',
            gap, source, CASE WHEN except_document IS NOT NULL THEN format(' AND v.document_id <> %s', except_document) END, by_index, readable);
    END IF;
    IF NOT exact THEN
        indexed := format(CASE WHEN wanted IS NOT NULL THEN
            'WITH hit AS MATERIALIZED (SELECT v.chunk_id, %1$s AS distance FROM %2$s v WHERE true%3$s ORDER BY %4$s LIMIT %5$s)
             SELECT hit.chunk_id, hit.distance FROM hit WHERE (SELECT count(*) FROM hit) = %5$s
             ORDER BY hit.distance + 0, hit.chunk_id LIMIT $2'
            WHEN gen_row.index_kind = 'bit' THEN
            'WITH hit AS MATERIALIZED (SELECT v.chunk_id, %1$s AS distance FROM %2$s v WHERE true%3$s ORDER BY %4$s LIMIT %6$s)
             SELECT hit.chunk_id, hit.distance FROM hit ORDER BY hit.distance + 0, hit.chunk_id LIMIT $2'
            ELSE 'SELECT v.chunk_id, %1$s AS distance FROM %2$s v WHERE true%3$s ORDER BY %4$s LIMIT $2' END,
            gap, source, passing, by_index, wanted, needed);
    END IF;
    compared := format(
        'SELECT s.chunk_id, s.distance
         FROM (SELECT v.chunk_id, %1$s AS distance FROM %2$s v WHERE true%3$s OFFSET 0) s  -- computed once
         ORDER BY s.distance, s.chunk_id LIMIT $2', gap, source, passing);
END $$;
COMMENT ON FUNCTION heal.nearest_statements IS
    'The statements of heal.nearest, whose arguments it checks: by index, unless every row that passes is to be compared, and by comparison, with their parameter '
    'documents; wanted: the number of rows that pass for which the index is searched, null for k. near: to try first, with each of '
    'depths as the number of nearest rows; it gives how many of these may be read, and chunks and distances of the first k. If there are fewer than '
    'needed, make the statements again, with a larger listed: the largest number of documents that are listed because they may be read.';

-- Vectors of more than 2 kB are stored outside the table, and the planner does not count that: it would compare all 5,000 rows of 768
-- dimensions in 45 ms, although the index takes 2. A table of shorter vectors, with few rows, is rightly compared without the index.
CREATE OR REPLACE FUNCTION heal.seqscan(dims int, otherwise text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN dims > 480 THEN 'off' ELSE otherwise END $$;
COMMENT ON FUNCTION heal.seqscan IS 'enable_seqscan in a search by index of vectors with so many dimensions.';

CREATE OR REPLACE FUNCTION heal.set_scan(gen_row heal.generation, k int, wanted int)
RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    kept text[] := ARRAY[current_setting('hnsw.ef_search', true), current_setting('hnsw.iterative_scan', true),
                         current_setting('hnsw.max_scan_tuples', true), current_setting('hnsw.scan_mem_multiplier', true),
                         current_setting('enable_seqscan')];
BEGIN
    PERFORM heal.restore_scan(ARRAY[CASE WHEN wanted >= 2000 THEN 1000 ELSE greatest(
                                        gen_row.ef_search, least(greatest(2 * k, heal.candidates(gen_row.oversampling, k)), 1000)) END::text,
                                    'relaxed_order',
                                    CASE WHEN wanted IS NOT NULL THEN '100000' ELSE kept[3] END,
                                    CASE WHEN wanted IS NOT NULL THEN '16' ELSE kept[4] END,
                                    heal.seqscan(gen_row.dims, kept[5])]);
    RETURN kept;
END $$;
COMMENT ON FUNCTION heal.set_scan IS
    'Sets what a scan of an index reads, for so many rows that pass or for k, until the transaction ends; returns what was set before.';

CREATE OR REPLACE FUNCTION heal.restore_scan(kept text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('hnsw.ef_search', kept[1], true), set_config('hnsw.iterative_scan', kept[2], true),
            set_config('hnsw.max_scan_tuples', kept[3], true), set_config('hnsw.scan_mem_multiplier', kept[4], true),
            set_config('enable_seqscan', kept[5], true);
END $$;
COMMENT ON FUNCTION heal.restore_scan IS 'Sets what heal.set_scan has returned.';

-- ROWS 10: with the default of 1000 the planner reads all chunks for a hash join (measured: 21 ms instead of 5 on 20,000 rows).
CREATE OR REPLACE FUNCTION heal.nearest(
    query vector, gen_row heal.generation, k int, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL, condition text DEFAULT NULL,
    except_document bigint DEFAULT NULL, exact boolean DEFAULT false, few int DEFAULT 50000,
    shown bigint[] DEFAULT NULL, last_distance double precision DEFAULT NULL, last_chunk bigint DEFAULT NULL,
    permitted text[] DEFAULT NULL
)
RETURNS TABLE (chunk_id bigint, distance double precision)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
DECLARE
    made record;
    kept text[];
    depth int;
    passed int;
    chunks bigint[];
    distances double precision[];
BEGIN
    made := heal.nearest_statements(query, gen_row, k, topic, filter, condition, except_document, exact, few, shown, last_chunk, permitted,
                                    CASE WHEN heal.widely_readable(permitted) THEN 0 ELSE 2000 END);
    IF made.near IS NOT NULL THEN
        FOREACH depth IN ARRAY made.depths LOOP
            kept := heal.set_scan(gen_row, depth / 2, NULL);
            EXECUTE made.near INTO passed, chunks, distances USING query, k, NULL, NULL, NULL, NULL, NULL, NULL, permitted, depth;
            PERFORM heal.restore_scan(kept);
            IF passed >= made.needed THEN
                RETURN QUERY SELECT u.* FROM unnest(chunks, distances) u;
                RETURN;
            END IF;
            EXIT WHEN passed = 0;
        END LOOP;
        made := heal.nearest_statements(query, gen_row, k, topic, filter, condition, except_document, exact, few, shown, last_chunk,
                                        permitted, 20000);
    END IF;
    IF made.indexed IS NOT NULL THEN
        kept := heal.set_scan(gen_row, k, made.wanted);
        RETURN QUERY EXECUTE made.indexed USING query, k, made.documents, filter, condition, shown, last_distance, last_chunk, permitted;
        exact := made.wanted IS NOT NULL AND NOT FOUND;
        PERFORM heal.restore_scan(kept);
    END IF;
    IF made.indexed IS NULL OR exact THEN
        RETURN QUERY EXECUTE made.compared USING query, k, made.documents, filter, condition, shown, last_distance, last_chunk, permitted;
    END IF;
END $$;
COMMENT ON FUNCTION heal.nearest IS
    'Nearest chunk ids of one generation, in no order; the core of the search functions. exact: compare with every row that '
    'passes; few: the largest number of rows that are compared one by one because of a topic, filter or condition, at more than 384 '
    'dimensions in proportion fewer; shown: chunks of the first page, which are left out; last_distance, last_chunk: only rows beyond '
    'these; permitted: heal.permitted of a reader, null for the pipeline.';

-- Called only if there is a filter or a condition: called for each hit it took a fifth of the time of a search.
CREATE OR REPLACE FUNCTION heal.shown_document(document bigint, filter jsonb, condition text, permitted text[])
RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT d.document_id FROM heal.document d
    WHERE document IN (d.document_id, d.duplicate_of) AND (filter IS NULL OR d.metadata @> filter)
        AND (condition IS NULL OR heal.meets(d, condition)) AND d.deleted_at IS NULL
        AND (permitted IS NULL OR d.acl IS NULL OR d.acl && permitted)
    ORDER BY d.duplicate_of NULLS FIRST, d.document_id LIMIT 1
$$;
COMMENT ON FUNCTION heal.shown_document IS
    'The document to show for a hit: of the document and its exact duplicates one that passes filter, condition and lists of readers, or none.';
