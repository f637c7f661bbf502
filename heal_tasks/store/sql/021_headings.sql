-- Headings of chunks: the path from the document's title down to the section that a chunk is in.

ALTER TABLE heal.chunk ADD COLUMN heading text NOT NULL DEFAULT '';
COMMENT ON COLUMN heal.chunk.heading IS
    'The headings that the chunk is under, below the document''s title, from the outermost; empty for chunks of documents that fit into '
    'one, and for those from before there were headings.';

CREATE FUNCTION heal.title_line(title text, heading text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN heading = '' THEN title WHEN title = '' THEN heading ELSE rtrim(left(title, 77)) || ' › ' || heading END
$$;
COMMENT ON FUNCTION heal.title_line IS
    'The title of a document, and behind it the headings that a chunk is under; the encoder reads it before the chunk''s text.';

CREATE OR REPLACE FUNCTION heal.set_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT heal.to_words(d.language, concat_ws(E'\n', d.title, nullif(NEW.heading, ''), NEW.text))
    INTO NEW.words FROM heal.document d WHERE d.document_id = NEW.document_id;
    RETURN NEW;
END $$;
