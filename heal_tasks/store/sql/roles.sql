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
