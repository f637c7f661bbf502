-- Views with the columns that clients of pgvector read, over the live generation. Repeatable: applied again whenever this file changes.

CREATE OR REPLACE FUNCTION heal.serves_adopted_model()
RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    other record;
BEGIN
    SELECT a.source, a.model, g.generation_id, s.model_uri INTO other
    FROM heal.adopted a, heal.generation g JOIN heal.space s USING (space_id)
    WHERE g.state = 'active' AND a.own_queries AND CASE WHEN a.model_sha256 = ''
        THEN a.model <> s.model_uri AND NOT starts_with(s.model_uri, a.model || '?') ELSE a.model_sha256 <> s.model_sha256 END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'generation % has vectors of %, but the clients of % ask with vectors of %',
            other.generation_id, other.model_uri, other.source, other.model USING ERRCODE = 'HEA01',
            HINT = 'Set HEAL_MODEL to the clients'' model and realign, or let clients ask by heal_tasks serve and adopt with --queries-by-serve.';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION heal.serves_adopted_model IS
    'True; an error where the live generation has vectors of another model than an adopted table, whose clients would mix two spaces.';

-- Rows of adopted tables have their own ids, and exact duplicates among them are rows of their own. OFFSET 0 keeps the look-up of a
-- chunk's text and documents inside the scan of the vectors: without it a planner without statistics joins first and sorts all rows.
CREATE OR REPLACE VIEW heal.served_document AS
SELECT e.embedding, r.*
FROM heal.served e CROSS JOIN LATERAL (
    SELECT c.chunk_id, c.text, d.document_id, d.source, d.metadata,
           CASE WHEN d.source LIKE 'table:%' THEN d.external_id ELSE c.chunk_id::text END AS row_id
    FROM heal.chunk c JOIN heal.readable_document d ON coalesce(d.duplicate_of, d.document_id) = c.document_id
    WHERE c.chunk_id = e.chunk_id AND (d.duplicate_of IS NULL OR d.source LIKE 'table:%') OFFSET 0) r
WHERE (SELECT heal.serves_adopted_model());
COMMENT ON VIEW heal.served_document IS
    'The live generation''s vectors with text, metadata and id: of an adopted row its own id, of other documents the chunk''s.';

CREATE OR REPLACE VIEW heal.served_as_langchain AS
SELECT s.row_id AS langchain_id, s.text AS content, s.embedding, s.metadata AS langchain_metadata, s.source FROM heal.served_document s;
COMMENT ON VIEW heal.served_as_langchain IS
    'The live generation as langchain-postgres reads it: PGVectorStore.create(..., schema_name="heal", table_name="served_as_langchain").';

CREATE OR REPLACE VIEW heal.data_served_as_llama_index AS
SELECT CASE WHEN s.source LIKE 'table:%' THEN s.document_id ELSE s.chunk_id END AS id, s.text, s.metadata AS metadata_,
       coalesce(s.metadata ->> 'node_id', s.row_id) AS node_id, s.embedding, s.source
FROM heal.served_document s;
COMMENT ON VIEW heal.data_served_as_llama_index IS
    'The live generation as LlamaIndex reads it: PGVectorStore.from_params(..., schema_name="heal", table_name="served_as_llama_index").';
