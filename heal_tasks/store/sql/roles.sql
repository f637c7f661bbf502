-- The three roles. Applied at every migration, before all other files, because roles belong to the server and not to the database: a
-- database may be restored on a server without them. A user who may not make roles works without them.
DO $$
DECLARE
    role text;
BEGIN
    IF (SELECT r.rolsuper OR r.rolcreaterole FROM pg_roles r WHERE r.rolname = current_user) THEN
        FOREACH role IN ARRAY ARRAY['heal_owner', 'heal_pipeline', 'heal_reader'] LOOP
            IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
                BEGIN
                    EXECUTE format('CREATE ROLE %I NOLOGIN', role);
                    EXECUTE format('GRANT %I TO CURRENT_USER', role);
                EXCEPTION WHEN duplicate_object OR unique_violation THEN
                    NULL;  -- another database of this server is being migrated
                END;
            END IF;
        END LOOP;
        -- The owner's view reads tables of the pipeline.
        IF NOT pg_has_role('heal_owner', 'heal_pipeline', 'MEMBER') THEN
            GRANT heal_pipeline TO heal_owner;
        END IF;
    END IF;
END $$;

-- Everything in the schema belongs to heal_owner, except the tables of vectors, which belong to heal_pipeline.
DO $$
DECLARE
    item record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'heal_owner' AND pg_has_role(r.oid, 'MEMBER')) THEN
        RETURN;
    END IF;
    ALTER SCHEMA heal OWNER TO heal_owner;
    GRANT USAGE, CREATE ON SCHEMA heal TO heal_pipeline;
    FOR item IN
        SELECT format('TABLE %s', c.oid::regclass) AS object, pg_get_userbyid(c.relowner) AS owner,
               CASE WHEN c.relname ~ '^((base|question)_s|(vec|lex|push)_g)\d+$' THEN 'heal_pipeline' ELSE 'heal_owner' END AS wanted
        FROM pg_class c WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind IN ('r', 'v')
        UNION ALL
        SELECT format('ROUTINE %s', p.oid::regprocedure), pg_get_userbyid(p.proowner), 'heal_owner'
        FROM pg_proc p WHERE p.pronamespace = 'heal'::regnamespace
    LOOP
        IF item.owner <> item.wanted THEN
            EXECUTE format('ALTER %s OWNER TO %I', item.object, item.wanted);
        END IF;
    END LOOP;
    SET LOCAL ROLE heal_owner;
END $$;
