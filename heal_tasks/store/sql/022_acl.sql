-- Who may read which document.

ALTER TABLE heal.document ADD acl text[], ADD acl_changed_at timestamptz;
COMMENT ON COLUMN heal.document.acl IS
    'Principals that may read the document, in order, each once; null: everybody; empty: nobody but the pipeline. Documents are duplicates of each '
    'other only if their lists are equal, too.';
COMMENT ON COLUMN heal.document.acl_changed_at IS 'Time at which the list of principals last became another one.';

-- A search asks first whether any document has a list; this index is empty where none has.
CREATE INDEX document_restricted ON heal.document (document_id) WHERE acl IS NOT NULL;
CREATE INDEX document_acl ON heal.document USING gin (acl) WITH (fastupdate = off) WHERE acl IS NOT NULL;
CREATE INDEX document_public ON heal.document (document_id) WHERE acl IS NULL AND duplicate_of IS NULL AND deleted_at IS NULL;

-- Not in a file that is applied again, so that a deployment may replace it: docs/permissions.md.
CREATE FUNCTION heal.principals() RETURNS text[] LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER AS $$
BEGIN
    RETURN coalesce(heal.setting_principals(), heal.role_principals());
END $$;
COMMENT ON FUNCTION heal.principals IS
    'The principals of this session: those that heal.principals is set to, or else the roles of its user. May be replaced.';

-- What heal.embedding was: replaced by heal.activate, and not for readers.
CREATE VIEW heal.served AS
SELECT NULL::bigint AS chunk_id, NULL::bigint AS document_id, NULL::integer AS leaf, NULL::vector AS embedding,
       NULL::bigint AS generation_id
WHERE false;
COMMENT ON VIEW heal.served IS 'Rows of the live generation. heal.embedding shows those that a session may read.';
DO $$
DECLARE
    live bigint := (SELECT g.generation_id FROM heal.generation g WHERE g.state = 'active');
BEGIN
    IF live IS NOT NULL THEN
        EXECUTE format('CREATE OR REPLACE VIEW heal.served AS
                        SELECT v.chunk_id, v.document_id, v.leaf, v.embedding::vector AS embedding, %s::bigint AS generation_id
                        FROM heal.%I v', live, heal.vector_table(live));
    END IF;
END $$;

-- Functions whose arguments have changed cannot be replaced: they are dropped here, and the other files make them again.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT p.oid::regprocedure AS routine FROM pg_proc p
        WHERE p.pronamespace = 'heal'::regnamespace AND p.proname IN (
            'nearest', 'nearest_statements', 'set_scan', 'matching', 'ranked', 'shown_document', 'find_planned')
    LOOP
        EXECUTE format('DROP FUNCTION %s', item.routine);
    END LOOP;
END $$;
