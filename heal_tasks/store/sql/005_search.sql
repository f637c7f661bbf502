-- Full text and metadata filters beside the vectors, and whose language a text is in.

ALTER TABLE heal.document ADD COLUMN language text NOT NULL DEFAULT 'english';
COMMENT ON COLUMN heal.document.language IS
    'Text search configuration of its texts; one that the server does not have counts as simple.';
CREATE INDEX document_language ON heal.document (language);
CREATE INDEX document_metadata ON heal.document USING gin (metadata jsonb_path_ops);

ALTER TABLE heal.chunk ADD COLUMN words tsvector NOT NULL DEFAULT '';
COMMENT ON COLUMN heal.chunk.words IS
    'Word stems of title and text in the document''s language, kept by trigger, for heal.hybrid_search.';

CREATE FUNCTION heal.text_config(language text) RETURNS regconfig LANGUAGE sql STABLE AS
$$ SELECT coalesce((SELECT c.oid FROM pg_catalog.pg_ts_config c
                    WHERE c.cfgname = language AND pg_catalog.pg_ts_config_is_visible(c.oid)),
                   'pg_catalog.simple'::regconfig)::regconfig $$;
COMMENT ON FUNCTION heal.text_config IS 'The text search configuration of that name; simple where the server has none.';

CREATE FUNCTION heal.set_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT to_tsvector(heal.text_config(d.language), d.title || E'\n' || NEW.text)
    INTO NEW.words FROM heal.document d WHERE d.document_id = NEW.document_id;
    RETURN NEW;
END $$;
CREATE TRIGGER chunk_words BEFORE INSERT OR UPDATE OF text ON heal.chunk
    FOR EACH ROW EXECUTE FUNCTION heal.set_words();

CREATE FUNCTION heal.set_words_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE heal.chunk SET text = text WHERE document_id = NEW.document_id;
    RETURN NULL;
END $$;
CREATE TRIGGER document_language AFTER UPDATE OF language ON heal.document
    FOR EACH ROW WHEN (OLD.language <> NEW.language) EXECUTE FUNCTION heal.set_words_again();

UPDATE heal.chunk SET text = text;
CREATE INDEX chunk_words ON heal.chunk USING gin (words);

ALTER TABLE heal.generation ADD COLUMN index_kind text NOT NULL DEFAULT 'vector'
    CHECK (index_kind IN ('none', 'vector', 'halfvec'));
COMMENT ON COLUMN heal.generation.index_kind IS
    'What its HNSW index holds: the vectors, or 16-bit copies in half the space; none: few rows, every search is exact.';

-- Filters, heal.similar and deletions find served rows by document.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT relname FROM pg_class
                WHERE relnamespace = 'heal'::regnamespace AND relkind = 'r' AND relname ~ '^vec_g\d+$'
                  AND to_regclass(format('heal.%I', relname || '_leaf')) IS NOT NULL LOOP
        EXECUTE format('CREATE INDEX %I ON heal.%I (document_id)', name || '_document', name);
    END LOOP;
END $$;

-- They have one argument more since; beside the new ones they would make every call ambiguous.
DROP FUNCTION IF EXISTS heal.search(vector, bigint, int, bigint);
DROP FUNCTION IF EXISTS heal.similar(bigint, int, bigint);
DROP FUNCTION IF EXISTS heal.nearest(vector, heal.generation, int, bigint, bigint);
