-- Rights of the roles. Applied at every migration, after all other files, as the schema's owner; nothing is granted on what others own.

-- A SECURITY DEFINER function sees only the system's schema and pgvector's, whatever search path its caller has set. So does text_config:
-- a document's words and a question's are stemmed by the same configuration, whoever stores and whoever asks.
DO $$
DECLARE
    path text := (SELECT format('pg_catalog, %I, pg_temp', n.nspname) FROM pg_extension e
                  JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
    pipeline boolean := to_regrole('heal_pipeline') IS NOT NULL;
    reader boolean := to_regrole('heal_reader') IS NOT NULL;
    owner oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user);  -- a cast would read the name as SQL
    item record;
BEGIN
    FOR item IN
        SELECT p.oid::regprocedure AS routine, p.prosecdef, p.proname FROM pg_proc p
        WHERE p.pronamespace = 'heal'::regnamespace AND p.proowner = owner
    LOOP
        IF item.prosecdef OR item.proname = 'text_config' THEN
            EXECUTE format('ALTER ROUTINE %s SET search_path = %s', item.routine, path);
        END IF;
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', item.routine);
        IF pipeline THEN
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO heal_pipeline', item.routine);
        END IF;
        IF reader AND item.proname IN ('search', 'search_many', 'similar', 'find', 'query_vector', 'explain_find', 'hybrid_search',
                                       'topic_search', 'explain', 'vector_table', 'feedback',
                                       'serves_adopted_model') THEN
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO heal_reader', item.routine);
        END IF;
        -- Views and policies call these with the rights of their readers, who may have been granted no more than that.
        IF item.proname IN ('permitted', 'may_read') THEN
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO PUBLIC', item.routine);
        END IF;
    END LOOP;
    IF pipeline THEN
        GRANT USAGE, CREATE ON SCHEMA heal TO heal_pipeline;
        FOR item IN
            SELECT c.oid::regclass AS name FROM pg_class c
            WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind IN ('r', 'v') AND c.relowner = owner
        LOOP
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO heal_pipeline', item.name);
        END LOOP;
        REVOKE INSERT, UPDATE, DELETE ON heal.schema_migration FROM heal_pipeline;
    END IF;
    IF reader THEN
        GRANT USAGE ON SCHEMA heal TO heal_reader;
        GRANT SELECT ON heal.embedding, heal.passages, heal.topics, heal.generation_status, heal.lineage, heal.quality, heal.runs,
            heal.quarantined, heal.costs, heal.served_as_langchain, heal.data_served_as_llama_index TO heal_reader;
    END IF;
END $$;

-- A view that has just been replaced is no security barrier any more.
CALL heal.guard_views();
