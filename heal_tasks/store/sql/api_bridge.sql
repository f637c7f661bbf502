-- Query vectors of retired generations, mapped to the live one. Repeatable: applied again whenever this file changes.

CREATE OR REPLACE FUNCTION heal.mapped(query vector, old_space bigint, new_space bigint)
RETURNS vector LANGUAGE sql STABLE AS $$
    SELECT l2_normalize(array_agg((r.shift - (r.weights <#> query))::real ORDER BY r.place)::vector)
    FROM heal.bridge_row r WHERE r.from_space = old_space AND r.to_space = new_space
$$;
COMMENT ON FUNCTION heal.mapped IS
    'A query vector of unit length mapped from one space to another, of unit length; null where there is no map between the two.';

CREATE OR REPLACE FUNCTION heal.bridge_share(old_space bigint, new_space bigint, OUT share double precision, OUT min_share double precision)
LANGUAGE sql STABLE AS $$
    SELECT b.recall / b.native_recall, b.min_share FROM heal.bridge b WHERE b.from_space = old_space AND b.to_space = new_space
    UNION ALL SELECT 1, 0 WHERE old_space = new_space
$$;
COMMENT ON FUNCTION heal.bridge_share IS
    'The share of the recall that query vectors of one space keep in another, and the least that is accepted; 1 and 0 for the same '
    'space, null without a map.';

CREATE OR REPLACE FUNCTION heal.bridged(queries vector[], gen bigint, OUT mapped vector[], OUT live bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    old_row heal.generation;
    new_row heal.generation;
    kept record;
BEGIN
    SELECT g.* INTO old_row FROM heal.generation g WHERE g.generation_id = gen AND g.state = 'retired';
    IF old_row.generation_id IS NULL THEN
        RETURN;
    END IF;
    SELECT g.* INTO new_row FROM heal.generation g WHERE g.state = 'active';
    SELECT s.* INTO kept FROM heal.bridge_share(old_row.space_id, new_row.space_id) s;
    IF kept.share IS NULL OR kept.share < kept.min_share THEN
        RETURN;
    END IF;
    live := new_row.generation_id;
    mapped := ARRAY(SELECT heal.checked_query(q.query, old_row) FROM unnest(queries) WITH ORDINALITY AS q (query, number) ORDER BY q.number);
    IF old_row.space_id = new_row.space_id THEN
        RAISE NOTICE 'generation % is retired: its query vectors are those of generation %, which was searched', gen, live
            USING HINT = format('Search generation %s.', live);
    ELSE
        mapped := ARRAY(SELECT heal.mapped(l2_normalize(m.query), old_row.space_id, new_row.space_id)
                        FROM unnest(mapped) WITH ORDINALITY AS m (query, number) ORDER BY m.number);
        RAISE NOTICE 'generation % is retired: the query was mapped to generation %, where mapped queries keep % %% of the recall',
            gen, live, round(100 * kept.share::numeric, 1)
            USING HINT = 'SELECT * FROM heal.generation_status WHERE state = ''active'' shows the live one and its model.';
    END IF;
END $$;
COMMENT ON FUNCTION heal.bridged IS
    'Query vectors of a retired generation as query vectors of the live one, with a notice; null for a generation that is not retired, '
    'and where no map is good enough.';

-- Compared by document, as the quality of human questions is.
CREATE OR REPLACE FUNCTION heal.bridge_recall(
    old_space bigint, gen bigint, OUT questions int, OUT recall double precision, OUT native_recall double precision
)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    gen_row heal.generation;
BEGIN
    SELECT g.* INTO gen_row FROM heal.generation g WHERE g.generation_id = gen;
    EXECUTE format($query$
        WITH asked AS MATERIALIZED (
            SELECT heal.mapped(p.embedding, $1, $2.space_id) AS mapped, n.embedding AS native, ARRAY(
                SELECT DISTINCT c.document_id FROM heal.question o JOIN heal.chunk c USING (chunk_id)
                WHERE heal.text_key(o.text) = heal.text_key(q.text) AND o.dropped_by IS NULL AND c.superseded_at IS NULL) AS answers
            FROM heal.bridge_probe p JOIN heal.question q USING (question_id) JOIN heal.%1$I n USING (question_id)
            WHERE p.space_id = $1
        )
        SELECT count(*)::int, avg(found.shares[1]), avg(found.shares[2])
        FROM asked a CROSS JOIN LATERAL (
            SELECT array_agg(one.share ORDER BY one.place) AS shares
            FROM unnest(ARRAY[a.mapped, a.native]) WITH ORDINALITY AS v (query, place) CROSS JOIN LATERAL (
                SELECT v.place, count(DISTINCT s.document_id)::float8 / least(10, cardinality(a.answers)) AS share
                FROM heal.nearest(v.query, $2, 10) f JOIN heal.%2$I s USING (chunk_id) WHERE s.document_id = ANY (a.answers)
            ) one) found
        WHERE cardinality(a.answers) > 0
        $query$, heal.space_table(gen_row.space_id, 'question'), heal.vector_table(gen))
    INTO questions, recall, native_recall USING old_space, gen_row;
END $$;
COMMENT ON FUNCTION heal.bridge_recall IS
    'recall@10 of the stored test questions of a space, mapped, in a generation with tables of another space, beside that of the new '
    'encoder''s vectors of the same questions; for maps that are stored.';
