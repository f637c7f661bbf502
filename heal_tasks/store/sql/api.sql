-- The SQL that users call. Repeatable: applied again whenever this file changes.
-- Errors: HEA01 the generation is not searchable, HEA02 wrong dimension, HEA03 bad argument.

CREATE OR REPLACE FUNCTION heal.vector_table(generation_id bigint, prefix text DEFAULT 'vec')
RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT prefix || '_g' || lpad(generation_id::text, greatest(6, length(generation_id::text)), '0') $$;
COMMENT ON FUNCTION heal.vector_table IS 'Name of a generation''s table: prefix vec (served), base (encoder output) or question.';

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
                      ELSE format('Generation %s is active; load its encoder (SELECT model_uri FROM heal.generation '
                                  'WHERE state = ''active'') and encode the query again.', active) END;
    END IF;
END $$;
COMMENT ON FUNCTION heal.searchable IS 'The row of an active or previous generation; error HEA01 for any other.';

CREATE OR REPLACE FUNCTION heal.topic_interval(gen_row heal.generation, topic bigint, OUT first_leaf int, OUT last_leaf int)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT t.first_leaf, t.last_leaf INTO first_leaf, last_leaf
    FROM heal.topic t WHERE t.topic_run_id = gen_row.topic_run_id AND t.topic_id = topic;
    IF first_leaf IS NULL THEN
        RAISE EXCEPTION 'generation % has no topic %', gen_row.generation_id, topic
            USING ERRCODE = 'HEA03', HINT = 'SELECT topic_id, terms FROM heal.topics lists the active generation''s topics.';
    END IF;
END $$;
COMMENT ON FUNCTION heal.topic_interval IS 'Leaf interval of a topic''s subtree.';

-- The KNN block is narrow and on its own (a join inside it loses the index); relaxed_order needs the outer sort.
CREATE OR REPLACE FUNCTION heal.nearest(
    query vector, gen_row heal.generation, k int, topic bigint DEFAULT NULL, except_document bigint DEFAULT NULL
)
RETURNS TABLE (chunk_id bigint, distance double precision)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    operator text := CASE gen_row.metric WHEN 'cosine' THEN '<=>' ELSE '<#>' END;
    condition text := '';
    bounds record;
BEGIN
    IF k IS NULL OR k < 1 OR k > 1000 THEN
        RAISE EXCEPTION 'k must be between 1 and 1000, got %', coalesce(k::text, 'null') USING ERRCODE = 'HEA03';
    END IF;
    IF vector_dims(query) <> gen_row.dims THEN
        RAISE EXCEPTION 'the query vector has % dimensions, generation % has %',
            vector_dims(query), gen_row.generation_id, gen_row.dims
            USING ERRCODE = 'HEA02', HINT = format('Encode the query with %s.', gen_row.model_uri);
    END IF;
    PERFORM set_config('hnsw.ef_search', greatest(gen_row.ef_search, least(2 * k, 1000))::text, true),
            set_config('hnsw.iterative_scan', 'relaxed_order', true);
    IF topic IS NOT NULL THEN
        bounds := heal.topic_interval(gen_row, topic);
        condition := format(' AND v.leaf BETWEEN %s AND %s', bounds.first_leaf, bounds.last_leaf);
    END IF;
    IF except_document IS NOT NULL THEN
        condition := condition || format(' AND v.document_id <> %s', except_document);
    END IF;
    RETURN QUERY EXECUTE format(
        'WITH hit AS MATERIALIZED (
             SELECT v.chunk_id, v.embedding %1$s $1::vector(%2$s) AS distance
             FROM heal.%3$I v WHERE true%4$s
             ORDER BY v.embedding %1$s $1::vector(%2$s) LIMIT $2
         ) SELECT hit.chunk_id, hit.distance FROM hit ORDER BY hit.distance + 0, hit.chunk_id',
        operator, gen_row.dims, heal.vector_table(gen_row.generation_id), condition)
    USING query, k;
END $$;
COMMENT ON FUNCTION heal.nearest IS 'Nearest chunk ids of one generation; what the search functions stand on.';

CREATE OR REPLACE FUNCTION heal.search(query vector, gen bigint, k int DEFAULT 10, topic bigint DEFAULT NULL)
RETURNS TABLE (chunk_id bigint, document_id bigint, title text, text text, distance double precision)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    gen_row heal.generation := heal.searchable(gen);
BEGIN
    RETURN QUERY
        SELECT n.chunk_id, c.document_id, d.title, c.text, n.distance
        FROM heal.nearest(query, gen_row, k, topic) n
        JOIN heal.chunk c ON c.chunk_id = n.chunk_id JOIN heal.document d ON d.document_id = c.document_id
        ORDER BY n.distance, n.chunk_id;
END $$;
COMMENT ON FUNCTION heal.search IS
    'The k chunks nearest to a query vector, pinned to the generation whose encoder made the vector; '
    'topic limits the search to a topic''s subtree.';

CREATE OR REPLACE FUNCTION heal.similar(document bigint, k int DEFAULT 10, topic bigint DEFAULT NULL)
RETURNS TABLE (chunk_id bigint, document_id bigint, title text, text text, distance double precision)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    gen_row heal.generation;
    probe vector;
    canonical bigint := (SELECT coalesce(d.duplicate_of, d.document_id) FROM heal.document d WHERE d.document_id = document);
BEGIN
    SELECT * INTO gen_row FROM heal.generation g WHERE g.state = 'active';
    gen_row := heal.searchable(gen_row.generation_id);
    EXECUTE format('SELECT v.embedding FROM heal.%I v JOIN heal.chunk c USING (chunk_id)
                    WHERE v.document_id = $1 ORDER BY c.ordinal LIMIT 1', heal.vector_table(gen_row.generation_id))
        INTO probe USING canonical;
    IF probe IS NULL THEN
        RAISE EXCEPTION 'document % has no vector in generation %', document, gen_row.generation_id
            USING ERRCODE = 'HEA03', HINT = 'SELECT document_id, title FROM heal.document WHERE deleted_at IS NULL.';
    END IF;
    RETURN QUERY
        SELECT n.chunk_id, c.document_id, d.title, c.text, n.distance
        FROM heal.nearest(probe, gen_row, k, topic, canonical) n
        JOIN heal.chunk c ON c.chunk_id = n.chunk_id JOIN heal.document d ON d.document_id = c.document_id
        ORDER BY n.distance, n.chunk_id;
END $$;
COMMENT ON FUNCTION heal.similar IS
    'The k chunks of other documents nearest to a document''s first chunk, in the active generation; needs no encoder.';

-- Order of the updates: the two unique partial indexes are checked at once, so room is made first.
CREATE OR REPLACE PROCEDURE heal.activate(gen bigint)
LANGUAGE plpgsql AS $$
DECLARE
    target heal.generation;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('heal.activate'));
    SELECT * INTO target FROM heal.generation g WHERE g.generation_id = gen FOR UPDATE;
    IF target.state = 'active' THEN
        RETURN;
    END IF;
    IF target.generation_id IS NULL OR target.kind = 'baseline' OR target.state NOT IN ('ready', 'previous') THEN
        RAISE EXCEPTION 'generation % cannot be activated (%)', coalesce(gen::text, 'null'),
            CASE WHEN target.kind = 'baseline' THEN 'baseline' ELSE coalesce(target.state, 'unknown') END
            USING ERRCODE = 'HEA01',
                  HINT = 'SELECT generation_id, state FROM heal.generation WHERE state IN (''ready'', ''previous'') lists the candidates.';
    END IF;
    IF target.state = 'ready' THEN
        UPDATE heal.generation SET state = 'retired', retired_at = now() WHERE state = 'previous';
    ELSE
        UPDATE heal.generation SET state = 'ready' WHERE generation_id = gen;
    END IF;
    UPDATE heal.generation SET state = 'previous' WHERE state = 'active';
    UPDATE heal.generation SET state = 'active', activated_at = now() WHERE generation_id = gen;
    EXECUTE format(
        'CREATE OR REPLACE VIEW heal.embedding AS
         SELECT v.chunk_id, v.document_id, v.leaf, v.embedding::vector AS embedding, %s::bigint AS generation_id
         FROM heal.%I v', gen, heal.vector_table(gen));
END $$;
COMMENT ON PROCEDURE heal.activate IS
    'Switches to a ready or the previous generation (rollback) in one transaction; set lock_timeout and retry around it.';

CREATE OR REPLACE VIEW heal.topics AS
SELECT t.topic_id, t.parent_id, t.level, t.first_leaf, t.last_leaf, t.terms, t.size, t.silhouette, t.topic_run_id
FROM heal.topic t JOIN heal.generation g ON g.topic_run_id = t.topic_run_id AND g.state = 'active'
ORDER BY t.first_leaf, t.level;
COMMENT ON VIEW heal.topics IS 'The topic tree of the active generation, in tree order.';

CREATE OR REPLACE VIEW heal.generation_status AS
SELECT g.generation_id, g.kind, g.state, g.dims, g.model_uri, g.nudge_variant, g.nudge_theta, g.recall,
       g.created_at, g.activated_at, g.note
FROM heal.generation g ORDER BY g.generation_id DESC;
COMMENT ON VIEW heal.generation_status IS 'Every generation with its state, newest first.';

CREATE OR REPLACE VIEW heal.lineage AS
SELECT e.chunk_id, e.document_id, d.source, d.external_id, d.title, d.content_hash AS document_hash, d.changed_at,
       c.content_hash AS chunk_hash, dt.topic_run_id, dt.path AS topic_path,
       (SELECT count(*) FROM heal.question q WHERE q.chunk_id = e.chunk_id) AS questions,
       g.generation_id, g.model_uri, g.model_sha256, g.nudge_variant, g.nudge_theta, g.run_id, g.metrics
FROM heal.embedding e
JOIN heal.chunk c USING (chunk_id) JOIN heal.document d ON d.document_id = e.document_id
JOIN heal.generation g ON g.generation_id = e.generation_id
LEFT JOIN heal.document_topic dt ON dt.topic_run_id = g.topic_run_id AND dt.document_id = e.document_id;
COMMENT ON VIEW heal.lineage IS 'From a vector to document version, topic, questions, model and evaluation.';
