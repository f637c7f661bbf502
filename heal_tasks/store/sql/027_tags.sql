-- PostgreSQL's parser takes <div> and List<String> for tags and leaves them out, and after <script> or <style> all that follows: of
-- "The <style> element holds rules" no word was found. Blanks in place of < make words of them.
CREATE OR REPLACE FUNCTION heal.to_words(language text, t text) RETURNS tsvector LANGUAGE sql STABLE AS
$$ SELECT to_tsvector(heal.text_config(language), replace(CASE WHEN octet_length(t) = length(t) THEN t ELSE heal.spaced(t) END, '<', ' ')) $$;

UPDATE heal.chunk c SET text = c.text
FROM heal.document d
WHERE d.document_id = c.document_id AND concat_ws(E'\n', d.title, c.heading, c.text) ~ '<[A-Za-z/!?]';
