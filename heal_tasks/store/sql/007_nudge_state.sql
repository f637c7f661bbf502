-- What the short nudge path keeps, so that a night costs what arrived and not what is stored.

CREATE FUNCTION heal.text_key(text text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashtextextended(lower(text), 0);
COMMENT ON FUNCTION heal.text_key IS 'Equal for equal questions, whatever their case.';
CREATE INDEX question_text_key ON heal.question (heal.text_key(text));

CREATE TABLE heal.nudge_touched (
    generation_id bigint NOT NULL REFERENCES heal.generation ON DELETE CASCADE,
    chunk_id      bigint NOT NULL,
    PRIMARY KEY (generation_id, chunk_id)
);
COMMENT ON TABLE heal.nudge_touched IS
    'Chunks that arrived, went, or gained or lost a question since a generation''s served vectors were last computed.';

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
    'A fixed set of held-out questions per generation, each with the chunks served nearest to it and their scores, best '
    'first, and its nDCG@10 when the generation was made: what a nudge is judged by without a scan.';

-- A question that several chunks answer pulls each of them by its share, so they are touched together.
CREATE FUNCTION heal.touch_chunks() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, heal AS $$
BEGIN
    IF TG_TABLE_NAME = 'chunk' THEN
        INSERT INTO heal.nudge_touched
        SELECT g.generation_id, c.chunk_id FROM changed c, heal.generation g
        WHERE g.kind <> 'baseline' AND g.state IN ('building', 'ready', 'active', 'previous')
        ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO heal.nudge_touched
        SELECT DISTINCT g.generation_id, q.chunk_id
        FROM changed c JOIN heal.question q ON heal.text_key(q.text) = heal.text_key(c.text), heal.generation g
        WHERE c.split = 'train' AND g.kind <> 'baseline' AND g.state IN ('building', 'ready', 'active', 'previous')
        UNION
        SELECT g.generation_id, c.chunk_id FROM changed c, heal.generation g
        WHERE c.split = 'train' AND g.kind <> 'baseline' AND g.state IN ('building', 'ready', 'active', 'previous')
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION heal.touch_chunks IS 'Notes which chunks a change touches, for every generation that may be served.';

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
