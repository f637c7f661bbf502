-- A judgment names a document: its chunks that are nearly as near to the question as the nearest are moved as well. And what a question
-- moves changes not only when it comes or goes, but also when it goes over to another chunk, or a filter drops it.

CREATE TABLE heal.near_chunk (
    question_id bigint NOT NULL REFERENCES heal.question ON DELETE CASCADE,
    chunk_id    bigint NOT NULL REFERENCES heal.chunk ON DELETE CASCADE,
    PRIMARY KEY (question_id, chunk_id)
);
CREATE INDEX near_chunk_chunk ON heal.near_chunk (chunk_id);
COMMENT ON TABLE heal.near_chunk IS
    'Further chunks that a human question moves, beside its own: those of the judged document that are nearly as near to it.';

CREATE VIEW heal.moved_chunk AS
    SELECT question_id, chunk_id FROM heal.question UNION ALL SELECT question_id, chunk_id FROM heal.near_chunk;
COMMENT ON VIEW heal.moved_chunk IS 'Every chunk that a question may move: its own, and those of near_chunk.';

-- A question that several chunks answer moves each of them by its share, so all of them are touched together.
CREATE FUNCTION heal.answers_of(text_keys bigint[]) RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
    SELECT m.chunk_id FROM heal.question q JOIN heal.moved_chunk m USING (question_id) WHERE heal.text_key(q.text) = ANY (text_keys)
$$;
COMMENT ON FUNCTION heal.answers_of IS 'The chunks that questions of these texts move.';

CREATE OR REPLACE FUNCTION heal.touch_chunks() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, heal AS $$
DECLARE
    chunks bigint[];
    keys bigint[];
BEGIN
    IF TG_TABLE_NAME = 'chunk' THEN
        SELECT array_agg(c.chunk_id) INTO chunks FROM changed c;
    ELSIF TG_TABLE_NAME = 'near_chunk' THEN
        SELECT array_agg(c.chunk_id), array_agg(DISTINCT heal.text_key(q.text)) INTO chunks, keys
        FROM changed c LEFT JOIN heal.question q USING (question_id);
    ELSIF TG_OP = 'UPDATE' THEN
        SELECT array_agg(b.chunk_id), array_agg(DISTINCT heal.text_key(c.text)) INTO chunks, keys
        FROM before b JOIN changed c USING (question_id)
        WHERE (b.chunk_id, b.split, b.dropped_by IS NULL) IS DISTINCT FROM (c.chunk_id, c.split, c.dropped_by IS NULL)
            AND (heal.moves_rows(b.split) OR heal.moves_rows(c.split));
    ELSE
        SELECT array_agg(c.chunk_id), array_agg(DISTINCT heal.text_key(c.text)) INTO chunks, keys
        FROM changed c WHERE heal.moves_rows(c.split);
    END IF;
    PERFORM heal.touch(ARRAY(SELECT unnest(chunks) UNION SELECT heal.answers_of(keys)));
    RETURN NULL;
END $$;

CREATE TRIGGER touch_changed AFTER UPDATE ON heal.question
    REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION heal.touch_chunks();
CREATE TRIGGER touch_added AFTER INSERT ON heal.near_chunk
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION heal.touch_chunks();
CREATE TRIGGER touch_deleted AFTER DELETE ON heal.near_chunk
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION heal.touch_chunks();
