-- Documents and their chunks, the files that they came from, and rejected input.

CREATE TABLE heal.source_file (
    source      text NOT NULL,
    path        text NOT NULL,
    fingerprint text NOT NULL,
    clean       boolean NOT NULL,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, path)
);
COMMENT ON TABLE heal.source_file IS
    'Source files as last read. A file with the same fingerprint (ETag, or size and modification time) is not read again.';

CREATE TABLE heal.document (
    document_id  bigint PRIMARY KEY,
    source       text NOT NULL,
    external_id  text NOT NULL,
    path         text NOT NULL,
    title        text NOT NULL,
    body         text NOT NULL,
    metadata     jsonb NOT NULL DEFAULT '{}',
    content_hash text NOT NULL,
    language     text NOT NULL DEFAULT 'english',
    duplicate_of bigint REFERENCES heal.document DEFERRABLE INITIALLY DEFERRED,
    created_at   timestamptz NOT NULL DEFAULT now(),
    changed_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz,
    UNIQUE (source, external_id)
);
CREATE INDEX document_source_path ON heal.document (source, path);
CREATE INDEX document_content ON heal.document (content_hash);
CREATE INDEX document_duplicate ON heal.document (duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE INDEX document_language ON heal.document (language);
CREATE INDEX document_metadata ON heal.document USING gin (metadata jsonb_path_ops);
COMMENT ON TABLE heal.document IS
    'Documents as their sources give them. A deleted document keeps its row, without title, body and metadata. '
    'An exact duplicate points to the document whose chunks represent both.';
COMMENT ON COLUMN heal.document.language IS
    'Text search configuration of the document''s texts; a configuration that the server does not have counts as simple.';

CREATE TABLE heal.chunk (
    chunk_id      bigint PRIMARY KEY,
    document_id   bigint NOT NULL REFERENCES heal.document ON DELETE CASCADE,
    ordinal       integer NOT NULL,
    text          text NOT NULL,
    content_hash  text NOT NULL,
    words         tsvector NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    superseded_at timestamptz
);
CREATE INDEX chunk_document ON heal.chunk (document_id, ordinal);
CREATE INDEX chunk_superseded ON heal.chunk (superseded_at) WHERE superseded_at IS NOT NULL;
CREATE INDEX chunk_words ON heal.chunk USING gin (words);
COMMENT ON TABLE heal.chunk IS
    'Parts of documents, with one vector each. The id contains the hash of the text, so a vector cannot be stale. '
    'A superseded chunk is served until the vector of its successor is published; then it is deleted.';
COMMENT ON COLUMN heal.chunk.words IS
    'Word stems of title and text in the document''s language, for heal.hybrid_search; set by trigger.';

CREATE TABLE heal.quarantine (
    quarantine_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        text NOT NULL,
    source        text NOT NULL,
    path          text NOT NULL,
    line          integer NOT NULL,
    reason        text NOT NULL,
    raw           text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (source, path, line, reason)
);
COMMENT ON TABLE heal.quarantine IS 'Rejected input: where it came from, why it was rejected, and the input itself, to be fixed at its source.';

CREATE FUNCTION heal.text_config(language text) RETURNS regconfig LANGUAGE sql STABLE AS
$$ SELECT coalesce((SELECT c.oid FROM pg_catalog.pg_ts_config c
                    WHERE c.cfgname = language AND pg_catalog.pg_ts_config_is_visible(c.oid)),
                   'pg_catalog.simple'::regconfig)::regconfig $$;
COMMENT ON FUNCTION heal.text_config IS 'The text search configuration of that name; simple if the server has none.';

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
