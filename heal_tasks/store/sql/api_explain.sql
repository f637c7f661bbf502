-- How searches find their rows. Repeatable: applied again whenever this file changes.

-- VOLATILE, because a STABLE function may not explain.
CREATE OR REPLACE FUNCTION heal.explain(
    query vector, gen bigint, k int DEFAULT 10, topic bigint DEFAULT NULL, filter jsonb DEFAULT NULL, condition text DEFAULT NULL
)
RETURNS TABLE (line text) LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation;
    bridge record := heal.bridged(ARRAY[query], gen);
    permitted text[] := heal.permitted();
    planned boolean;
    shown bigint[];
    last_distance double precision;
    last_chunk bigint;
    served bigint;
    passing bigint;
    found bigint;
    depth int;
    passed int;
    enough boolean;
    made record;
    kept text[];
BEGIN
    IF bridge.live IS NOT NULL THEN
        RETURN QUERY SELECT e.line FROM heal.explain(bridge.mapped[1], bridge.live, k, topic, filter, condition) e;
        RETURN;
    END IF;
    gen_row := heal.searchable(gen);
    planned := gen_row.index_kind <> 'none' AND coalesce(topic::text, filter::text, condition, permitted::text) IS NULL AND k <= 100;
    made := heal.nearest_statements(query, gen_row, k, topic, filter, condition, NULL, false, 50000, NULL, NULL, permitted,
                                    CASE WHEN heal.widely_readable(permitted) THEN 0 ELSE 2000 END);
    EXECUTE format('SELECT count(*) FROM heal.%I', heal.vector_table(gen)) INTO served;
    EXECUTE format('SELECT count(*) FROM (%s) s', replace(made.compared, 'LIMIT $2', ''))
        INTO passing USING query, k, made.documents, filter, condition, shown, last_distance, last_chunk, permitted;
    line := format('generation %s: %s of %s rows pass (%s %%)', gen, passing, served, round(100.0 * passing / greatest(served, 1), 1));
    RETURN NEXT;
    FOREACH depth IN ARRAY coalesce(made.depths, '{}') LOOP
        kept := heal.set_scan(gen_row, depth / 2, NULL);
        EXECUTE made.near INTO passed USING query, k, made.documents, filter, condition, shown, last_distance, last_chunk, permitted, depth;
        PERFORM heal.restore_scan(kept);
        EXIT WHEN passed = 0 OR passed >= made.needed;
    END LOOP;
    enough := passed >= made.needed;
    IF enough THEN
        made.indexed := made.near;
        made.wanted := NULL;
    ELSIF made.near IS NOT NULL THEN
        made := heal.nearest_statements(query, gen_row, k, topic, filter, condition, NULL, false, 50000, NULL, NULL, permitted, 20000);
    END IF;
    kept := heal.set_scan(gen_row, CASE WHEN enough THEN depth / 2 ELSE k END, made.wanted);
    IF made.wanted IS NOT NULL AND made.indexed IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FROM (%s) s', made.indexed)
            INTO found USING query, k, made.documents, filter, condition, shown, last_distance, last_chunk, permitted;
    END IF;
    line := CASE
        WHEN made.indexed IS NULL THEN 'exact: every row that passes is compared'
        WHEN found = 0 THEN 'exact: the index found too few rows that pass, so each of them is compared'
        WHEN made.wanted IS NOT NULL THEN format('by index (%s, ef_search %s), until %s rows have passed', gen_row.index_kind,
                                                 current_setting('hnsw.ef_search'), made.wanted)
        WHEN enough THEN format('by index (%s, ef_search %s): enough of the nearest %s rows may be read', gen_row.index_kind,
                                   current_setting('hnsw.ef_search'), depth)
        ELSE format('by index (%s, ef_search %s)%s', gen_row.index_kind, current_setting('hnsw.ef_search'),
                    CASE gen_row.index_kind WHEN 'bit' THEN
                        format(', of whose first %s rows the full vectors are compared', heal.candidates(gen_row.oversampling, k)) END) END;
    RETURN NEXT;
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, BUFFERS) ' || CASE
            WHEN planned THEN heal.search_statement(gen_row, gen_row.index_kind, '$1', '$2', heal.candidates(gen_row.oversampling, k)::text)
            WHEN found = 0 THEN made.compared
            ELSE coalesce(made.indexed, made.compared) END
        USING query, k, made.documents, filter, condition, shown, last_distance, last_chunk, permitted, depth
    LOOP
        line := regexp_replace(line, '''[[{][^'']{40,}[]}]''::', '''...''::', 'g');  -- vectors, and lists of documents
        RETURN NEXT;
    END LOOP;
    PERFORM heal.restore_scan(kept);
END $$;
COMMENT ON FUNCTION heal.explain IS
    'How heal.search finds the rows for these arguments: the rows that pass, by index or exactly, and the plan as it ran.';

CREATE OR REPLACE FUNCTION heal.explain_find(question text, language text DEFAULT NULL)
RETURNS TABLE (stem text, config text, chunks int, weight real, share double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    gen_row heal.generation := heal.searchable((SELECT g.generation_id FROM heal.generation g WHERE g.state = 'active'));
    languages text[] := CASE WHEN language IS NOT NULL THEN ARRAY[language] END;
BEGIN
    question := heal.checked_text(question);
    IF gen_row.lexicon IS NOT NULL THEN
        EXECUTE format('SELECT coalesce(array_agg(u.language), $2) FROM (SELECT DISTINCT l.language FROM heal.%I l) u
                        WHERE $1 IS NULL OR heal.text_config(u.language) = heal.text_config($1)',
                       heal.vector_table(gen_row.generation_id, 'lex'))
            INTO languages USING language, languages;
    END IF;
    RETURN QUERY
        WITH known AS (SELECT s.* FROM heal.question_stems(question, gen_row.generation_id, heal.checked_language(language)) s),
        total AS (SELECT sum(k.embedding::vector) AS vector FROM known k),
        asked AS (SELECT s.lexeme, l.name
                  FROM unnest(languages) l (name), unnest(heal.to_words(l.name, question)) s)
        SELECT a.lexeme, a.name, coalesce(k.chunks, 0), coalesce(k.weight, 0::real),
               coalesce(-(k.embedding::vector <#> t.vector) / nullif(vector_norm(t.vector) ^ 2, 0), 0)
        FROM asked a LEFT JOIN known k ON k.stem = a.lexeme AND k.language = a.name CROSS JOIN total t
        ORDER BY 5 DESC, 1;
END $$;
COMMENT ON FUNCTION heal.explain_find IS
    'The stems of a question as heal.find counts them, in each language that documents have: chunks with the stem (0: none, or the '
    'lexicon does not have it), its inverse document frequency (0: the lexicon does not have it), and its share of the question''s '
    'vector; shares add up to 1.';
