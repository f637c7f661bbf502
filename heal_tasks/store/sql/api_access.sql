-- Which documents a session may read. Repeatable: applied again whenever this file changes.

CREATE OR REPLACE FUNCTION heal.setting_principals() RETURNS text[] LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    named text := nullif(current_setting('heal.principals', true), '');  -- '' after the end of a SET LOCAL, too
BEGIN
    IF named LIKE '{%' THEN
        RETURN named::text[];
    END IF;
    RETURN regexp_split_to_array(trim(named), '\s*,\s*');
END $$;
COMMENT ON FUNCTION heal.setting_principals IS
    'The principals that heal.principals is set to, with commas between them or as an array; null if it is not set.';

-- In a function with the rights of its owner, current_user is the owner, and the setting role is still the one of the caller's SET ROLE.
CREATE OR REPLACE FUNCTION heal.role_principals() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH RECURSIVE held AS (
        SELECT r.oid FROM pg_roles r WHERE r.rolname = coalesce(nullif(current_setting('role'), 'none'), session_user)
        UNION SELECT m.roleid FROM held h JOIN pg_auth_members m ON m.member = h.oid
    )
    SELECT coalesce(array_agg('role:' || r.rolname ORDER BY r.rolname), '{}') FROM held h JOIN pg_roles r ON r.oid = h.oid
$$;
COMMENT ON FUNCTION heal.role_principals IS
    'role:NAME for the role of this session, the one of SET ROLE or else its user, and for every role that it is a member of.';

CREATE OR REPLACE FUNCTION heal.permitted() RETURNS text[] LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER AS $$
BEGIN
    -- In order, so that the index is read and not the table, of which the first pages may be empty.
    IF (SELECT d.document_id FROM heal.document d WHERE d.acl IS NOT NULL ORDER BY d.document_id LIMIT 1) IS NOT NULL THEN
        RETURN coalesce(heal.principals(), '{}');
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION heal.permitted IS
    'The principals whose documents this session may read, besides those without a list; null while no document has one.';

CREATE OR REPLACE FUNCTION heal.may_read(document bigint) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER AS $$
    SELECT EXISTS (SELECT FROM heal.document d
                   WHERE d.document_id = document AND d.deleted_at IS NULL AND (d.acl IS NULL OR d.acl && heal.permitted()))
$$;
COMMENT ON FUNCTION heal.may_read IS 'True if this session may read a document, which is not deleted.';

CREATE OR REPLACE FUNCTION heal.few_readable(permitted text[], most int) RETURNS bigint[] LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    documents bigint[] := ARRAY(SELECT d.document_id FROM heal.document d
                                WHERE d.acl IS NULL AND d.duplicate_of IS NULL AND d.deleted_at IS NULL LIMIT most + 1);
BEGIN
    IF cardinality(documents) <= most THEN
        documents := documents || ARRAY(SELECT d.document_id FROM heal.document d
                                        WHERE d.acl && permitted AND d.duplicate_of IS NULL AND d.deleted_at IS NULL LIMIT most + 1);
    END IF;
    RETURN CASE WHEN cardinality(documents) <= most THEN documents END;
END $$;
COMMENT ON FUNCTION heal.few_readable IS 'The documents that some principals may read; null if there are more than so many.';

-- By the statistics of the last ANALYZE, which decide in which order a search tries its ways, and not what it finds.
CREATE OR REPLACE FUNCTION heal.widely_readable(permitted text[]) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT permitted IS NULL OR EXISTS (
        SELECT FROM pg_stats s
        WHERE s.schemaname = 'heal' AND s.tablename = 'document' AND s.attname = 'acl' AND (s.null_frac > 0.05 OR EXISTS (
            SELECT FROM unnest(s.most_common_elems::text::text[], s.most_common_elem_freqs) AS e (name, share)
            WHERE e.name = ANY (permitted) AND e.share * (1 - s.null_frac) > 0.05)))
$$;
COMMENT ON FUNCTION heal.widely_readable IS 'True if some principals may probably read more than a twentieth of all documents.';

-- A condition of a reader's query may call a function of his own. Of a view with a barrier it is given only rows that he may read; but such a
-- view is no longer searched by the index of vectors, or of metadata. So views have one as soon as there is something to hide.
CREATE OR REPLACE PROCEDURE heal.guard_views() LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    guarded boolean := heal.permitted() IS NOT NULL;
    name text;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'heal'::regnamespace AND c.relname IN ('embedding', 'passages', 'lineage', 'served_document')
            AND coalesce(c.reloptions::text LIKE '%security_barrier%', false) <> guarded
    LOOP
        EXECUTE format('ALTER VIEW heal.%I %s (security_barrier)', name, CASE WHEN guarded THEN 'SET' ELSE 'RESET' END);
    END LOOP;
END $$;
COMMENT ON PROCEDURE heal.guard_views IS
    'Makes the views of documents security barriers if any document has a list of readers, or ordinary views if none has.';

CREATE OR REPLACE PROCEDURE heal.row_security(enabled boolean) LANGUAGE plpgsql AS $$
DECLARE
    name text;
    policy text;
BEGIN
    FOREACH name IN ARRAY ARRAY['document', 'chunk'] LOOP
        EXECUTE format('ALTER TABLE heal.%I %s ROW LEVEL SECURITY', name, CASE WHEN enabled THEN 'ENABLE' ELSE 'DISABLE' END);
        FOR policy IN SELECT p.policyname FROM pg_policies p
            WHERE p.schemaname = 'heal' AND p.tablename = name AND p.policyname IN ('readers', 'pipeline')
        LOOP
            EXECUTE format('DROP POLICY %I ON heal.%I', policy, name);
        END LOOP;
        IF enabled AND to_regrole('heal_pipeline') IS NOT NULL THEN
            EXECUTE format('CREATE POLICY pipeline ON heal.%I TO heal_pipeline USING (true)', name);
        END IF;
    END LOOP;
    IF enabled THEN
        -- A deleted document has lost its list, and still has its name.
        CREATE POLICY readers ON heal.document FOR SELECT
            USING (deleted_at IS NULL AND ((SELECT heal.permitted()) IS NULL OR acl IS NULL OR acl && (SELECT heal.permitted())));
        CREATE POLICY readers ON heal.chunk FOR SELECT
            USING ((SELECT heal.permitted()) IS NULL OR heal.may_read(document_id));
    END IF;
END $$;
COMMENT ON PROCEDURE heal.row_security IS
    'Switches row-level security of heal.document and heal.chunk on or off, so that these tables can be granted to readers.';
