-- Checks of the arguments of search functions, and the conditions on documents. Repeatable: applied again whenever this file changes.
-- Errors: HEA01 the generation is not searchable, HEA02 the query vector has the wrong dimension or length, HEA03 bad argument,
-- HEA04 the page before is of another generation.

CREATE OR REPLACE FUNCTION heal.searchable(gen bigint, OUT row_ heal.generation)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    active heal.generation;
    kept record;
BEGIN
    SELECT * INTO row_ FROM heal.generation g WHERE g.generation_id = gen;
    IF row_.generation_id IS NULL OR row_.state NOT IN ('active', 'previous') THEN
        SELECT g.* INTO active FROM heal.generation g WHERE g.state = 'active';
        SELECT s.* INTO kept FROM heal.bridge_share(row_.space_id, active.space_id) s;
        RAISE EXCEPTION 'generation % is not searchable (%)', coalesce(gen::text, 'null'), coalesce(row_.state, 'unknown')
            USING ERRCODE = 'HEA01',
                  HINT = CASE WHEN active.generation_id IS NULL
                      THEN 'No generation is active yet; run the heal_realign DAG.'
                      ELSE format('Generation %s is active; load its encoder (SELECT model_uri FROM heal.generation_status '
                                  'WHERE state = ''active'') and encode the query again.', active.generation_id) END
                      || CASE WHEN row_.state = 'retired' AND kept.share < kept.min_share
                         THEN format(' Mapped, its query vectors would keep %s %% of the recall; HEAL_BRIDGE_MIN_RECALL asks for %s %%.',
                                     round(100 * kept.share::numeric, 1), round(100 * kept.min_share::numeric, 1)) ELSE '' END;
    END IF;
END $$;
COMMENT ON FUNCTION heal.searchable IS 'The row of an active or previous generation; error HEA01 for any other.';

-- New documents are not written into the previous generation. They have no vectors in its space, unless the live one has the same space,
-- and then a client needs no other encoder to follow the switch.
CREATE OR REPLACE FUNCTION heal.searched(gen bigint) RETURNS heal.generation LANGUAGE plpgsql STABLE AS $$
DECLARE
    gen_row heal.generation := heal.searchable(gen);
BEGIN
    IF gen_row.state = 'previous' THEN
        RAISE NOTICE 'generation % is not live any more: documents added or changed since % are not in it', gen, gen_row.changed_at
            USING HINT = 'SELECT * FROM heal.generation_status WHERE state = ''active'' shows the live one and its model.';
    END IF;
    RETURN gen_row;
END $$;
COMMENT ON FUNCTION heal.searched IS 'heal.searchable, with a notice where it is the previous generation.';

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

-- The metadata are the context of a condition, columns its variables. jsonb_path_match would raise an error where a time with a zone meets
-- one without. Making these takes four times as long as all the rest, so it is
-- done only for a condition that has any: a path is shown with its variables as $"name".
CREATE OR REPLACE FUNCTION heal.meets(document heal.document, condition text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT jsonb_path_match_tz((document).metadata, condition::jsonpath, CASE WHEN condition::jsonpath::text LIKE '%$"%' THEN
        jsonb_build_object('source', (document).source, 'external_id', (document).external_id, 'title', (document).title,
            'language', (document).language, 'changed_at', to_char((document).changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS'))
        ELSE '{}' END, true)
$$;
COMMENT ON FUNCTION heal.meets IS
    'True if a document''s metadata meet a condition, a JSON path predicate; null or false if not, also where it cannot be evaluated.';

-- A predicate has a value for metadata without any key, too; a path that selects values has none.
CREATE OR REPLACE FUNCTION heal.checked_condition(condition text) RETURNS text LANGUAGE plpgsql STABLE STRICT AS $$
BEGIN
    IF octet_length(condition) > 4096 THEN
        RAISE EXCEPTION 'condition has % bytes, and 4096 are the most', octet_length(condition) USING ERRCODE = 'HEA03';
    END IF;
    PERFORM jsonb_path_match_tz('{}', condition::jsonpath,
                                '{"source": "", "external_id": "", "title": "", "language": "", "changed_at": ""}');
    RETURN condition;
EXCEPTION WHEN syntax_error OR data_exception OR undefined_object OR feature_not_supported THEN
    RAISE EXCEPTION 'condition % is not a JSON path predicate: %', left(condition, 80), SQLERRM USING ERRCODE = 'HEA03',
        HINT = 'An example is $.year >= 2020 && ($.team == "ops" || $source == "s3://wiki").';
END $$;
COMMENT ON FUNCTION heal.checked_condition IS
    'A condition on metadata, or null; error HEA03 for one that is no JSON path predicate of at most 4 KiB.';

CREATE OR REPLACE FUNCTION heal.checked_page(after jsonb, gen bigint, measure text, OUT place double precision, OUT chunk_id bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    page_gen bigint;
BEGIN
    BEGIN
        place := (after ->> measure)::float8;
        chunk_id := (after ->> 'chunk_id')::bigint;
        page_gen := (after ->> 'generation_id')::bigint;
    EXCEPTION WHEN data_exception THEN
        place := NULL;
    END;
    IF place IS NULL OR chunk_id IS NULL OR page_gen IS NULL THEN
        RAISE EXCEPTION 'after must be the last row of the page before, with generation_id, chunk_id and %, got %', measure,
            left(after::text, 80) USING ERRCODE = 'HEA03', HINT = 'SELECT to_jsonb(hit) FROM heal.find(question) hit shows rows in this form.';
    ELSIF page_gen <> gen THEN
        RAISE EXCEPTION 'the page before is of generation %, and this search of generation %', page_gen, gen
            USING ERRCODE = 'HEA04', HINT = 'Begin with the first page again: leave out `after`.';
    END IF;
END $$;
COMMENT ON FUNCTION heal.checked_page IS
    'Distance or score, and chunk, of the last row of the page before; error HEA03 for anything else, HEA04 for another generation''s.';

CREATE OR REPLACE FUNCTION heal.checked_text(question text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF length(question) > 32768 THEN
        RAISE EXCEPTION 'the text has % characters, and 32768 are the most', length(question) USING ERRCODE = 'HEA03',
            HINT = 'Search with a question or a passage of it.';
    END IF;
    RETURN question;
END $$;
COMMENT ON FUNCTION heal.checked_text IS 'A text to search with, or null; error HEA03 for one of more than 32,768 characters.';

CREATE OR REPLACE FUNCTION heal.checked_language(language text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF language <> 'simple' AND heal.text_config(language) = 'pg_catalog.simple'::regconfig THEN
        RAISE EXCEPTION 'there is no text search configuration %', quote_literal(language)
            USING ERRCODE = 'HEA03', HINT = 'SELECT cfgname FROM pg_ts_config lists them; documents in other languages are found by ''simple''.';
    END IF;
    RETURN language;
END $$;
COMMENT ON FUNCTION heal.checked_language IS 'The name of a text search configuration, or null; error HEA03 for a name that there is not.';
