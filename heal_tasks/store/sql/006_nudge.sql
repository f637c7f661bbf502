-- Changes since the served rows were last computed, and questions that check them: the cost of a nudge
-- depends on the number of new documents, not on the size of the store.

CREATE TABLE heal.nudge_touched (
    generation_id bigint NOT NULL REFERENCES heal.generation ON DELETE CASCADE,
    chunk_id      bigint NOT NULL,
    PRIMARY KEY (generation_id, chunk_id)
);
COMMENT ON TABLE heal.nudge_touched IS
    'Chunks that were added or removed, or that gained or lost a question, since a generation''s served rows were last computed.';

CREATE TABLE heal.nudge_probe (
    generation_id bigint NOT NULL REFERENCES heal.generation ON DELETE CASCADE,
    question_id   bigint NOT NULL REFERENCES heal.question ON DELETE CASCADE,
    question_set  text NOT NULL,
    chunk_ids     bigint[] NOT NULL,
    scores        real[] NOT NULL,
    floor         real NOT NULL,
    at_start      real NOT NULL,
    PRIMARY KEY (generation_id, question_id)
);
CREATE INDEX nudge_probe_question ON heal.nudge_probe (question_id);
COMMENT ON TABLE heal.nudge_probe IS
    'A fixed set of held-out questions per generation, each with the served chunks nearest to it and their scores, best first, '
    'an upper bound of all other scores (floor), and its nDCG@10 when the generation was made. They judge a nudge without a scan.';

CREATE FUNCTION heal.touch(chunk_ids bigint[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO heal.nudge_touched
    SELECT g.generation_id, c.chunk_id FROM heal.generation g, unnest(chunk_ids) AS c (chunk_id)
    WHERE g.state IN ('building', 'ready', 'active', 'previous')
    ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION heal.touch IS 'Marks chunks as touched in every generation that is or may be served.';

-- A question that several chunks answer moves each of them by its share, so all of them are touched together.
CREATE FUNCTION heal.touch_chunks() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, heal AS $$
BEGIN
    IF TG_TABLE_NAME = 'chunk' THEN
        PERFORM heal.touch(array_agg(c.chunk_id)) FROM changed c;
    ELSE
        PERFORM heal.touch(array_agg(t.chunk_id)) FROM (
            SELECT c.chunk_id FROM changed c WHERE heal.moves_rows(c.split)
            UNION
            SELECT q.chunk_id FROM changed c JOIN heal.question q ON heal.text_key(q.text) = heal.text_key(c.text)
            WHERE heal.moves_rows(c.split)) t;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION heal.touch_chunks IS 'Trigger: marks the chunks that a change of chunks or questions touches.';

CREATE TRIGGER touch_added AFTER INSERT ON heal.chunk
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION heal.touch_chunks();
CREATE TRIGGER touch_changed AFTER UPDATE ON heal.chunk
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION heal.touch_chunks();
CREATE TRIGGER touch_deleted AFTER DELETE ON heal.chunk
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION heal.touch_chunks();
CREATE TRIGGER touch_added AFTER INSERT ON heal.question
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION heal.touch_chunks();
CREATE TRIGGER touch_deleted AFTER DELETE ON heal.question
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION heal.touch_chunks();
