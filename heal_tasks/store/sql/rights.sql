-- Rights of the roles. Applied at every migration, after all other files, as the schema's owner.

-- A SECURITY DEFINER function sees only the system's schema and pgvector's, whatever search path its caller has set.
DO $$
DECLARE
    path text := (SELECT format('pg_catalog, %I, pg_temp', n.nspname) FROM pg_extension e
                  JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
    routine regprocedure;
BEGIN
    FOR routine IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'heal'::regnamespace AND p.prosecdef LOOP
        EXECUTE format('ALTER ROUTINE %s SET search_path = %s', routine, path);
    END LOOP;
    REVOKE ALL ON ALL ROUTINES IN SCHEMA heal FROM PUBLIC;
END $$;

DO $$
DECLARE
    routine regprocedure;
BEGIN
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'heal_pipeline') THEN
        GRANT USAGE, CREATE ON SCHEMA heal TO heal_pipeline;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA heal TO heal_pipeline;
        REVOKE INSERT, UPDATE, DELETE ON heal.schema_migration FROM heal_pipeline;
        GRANT EXECUTE ON ALL ROUTINES IN SCHEMA heal TO heal_pipeline;
    END IF;
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'heal_reader') THEN
        GRANT USAGE ON SCHEMA heal TO heal_reader;
        GRANT SELECT ON heal.embedding, heal.topics, heal.generation_status, heal.lineage TO heal_reader;
        FOR routine IN
            SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'heal'::regnamespace AND p.proname IN (
                'search', 'search_many', 'similar', 'find', 'query_vector', 'explain_find', 'hybrid_search', 'topic_search',
                'vector_table')
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO heal_reader', routine);
        END LOOP;
    END IF;
END $$;
