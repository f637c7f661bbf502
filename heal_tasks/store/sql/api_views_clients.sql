-- Views with the columns that clients of pgvector read, over the live generation. Repeatable: applied again whenever this file changes.

CREATE OR REPLACE FUNCTION heal.serves_adopted_model()
RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    other record;
BEGIN
    SELECT a.source, a.model, g.generation_id, s.model_uri INTO other
    FROM heal.adopted a, heal.generation g JOIN heal.space s USING (space_id)
    WHERE g.state = 'active' AND CASE WHEN a.model_sha256 = '' THEN a.model <> s.model_uri ELSE a.model_sha256 <> s.model_sha256 END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'generation % has vectors of %, but the clients of % ask with vectors of %',
            other.generation_id, other.model_uri, other.source, other.model USING ERRCODE = 'HEA01',
            HINT = 'Set HEAL_MODEL to the model of the clients and start a run with the route realign, or roll back.';
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION heal.serves_adopted_model IS
    'True; an error where the live generation has vectors of another model than an adopted table, whose clients would mix two spaces.';

-- Rows of adopted tables have their own ids, and exact duplicates among them are rows of their own.
CREATE OR REPLACE VIEW heal.served_as_langchain AS
SELECT CASE WHEN d.source LIKE 'table:%' THEN d.external_id ELSE c.chunk_id::text END AS langchain_id, c.text AS content,
       e.embedding, d.metadata AS langchain_metadata, d.source
FROM heal.embedding e JOIN heal.chunk c ON c.chunk_id = e.chunk_id
JOIN heal.readable_document d ON coalesce(d.duplicate_of, d.document_id) = e.document_id
WHERE (d.duplicate_of IS NULL OR d.source LIKE 'table:%') AND (SELECT heal.serves_adopted_model());
COMMENT ON VIEW heal.served_as_langchain IS
    'The live generation as langchain-postgres reads it: PGVectorStore.create(..., schema_name="heal", table_name="served_as_langchain").';

CREATE OR REPLACE VIEW heal.data_served_as_llama_index AS
SELECT CASE WHEN d.source LIKE 'table:%' THEN d.document_id ELSE c.chunk_id END AS id, c.text, d.metadata AS metadata_,
       CASE WHEN d.source LIKE 'table:%' THEN coalesce(d.metadata ->> 'node_id', d.external_id) ELSE c.chunk_id::text END AS node_id,
       e.embedding, d.source
FROM heal.embedding e JOIN heal.chunk c ON c.chunk_id = e.chunk_id
JOIN heal.readable_document d ON coalesce(d.duplicate_of, d.document_id) = e.document_id
WHERE (d.duplicate_of IS NULL OR d.source LIKE 'table:%') AND (SELECT heal.serves_adopted_model());
COMMENT ON VIEW heal.data_served_as_llama_index IS
    'The live generation as LlamaIndex reads it: PGVectorStore.from_params(..., schema_name="heal", table_name="served_as_llama_index").';
