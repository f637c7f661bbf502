-- Plans that take the mean question off, so that rows without questions do not fall behind; and once they have chosen
-- plan and budget, the questions of validation move rows too.

ALTER TABLE heal.generation ADD COLUMN nudge_centre vector;
COMMENT ON COLUMN heal.generation.nudge_centre IS
    'Mean question when the budget was chosen, taken off each question before it moves rows; null: nothing is taken off.';

CREATE FUNCTION heal.moves_rows(split text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN split IN ('train', 'seen_validation', 'unseen_validation');
COMMENT ON FUNCTION heal.moves_rows IS 'Whether questions of a split move the rows that answer them.';

CREATE FUNCTION heal.touch(chunk_ids bigint[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO heal.nudge_touched
    SELECT g.generation_id, c.chunk_id FROM heal.generation g, unnest(chunk_ids) AS c (chunk_id)
    WHERE g.kind <> 'baseline' AND g.state IN ('building', 'ready', 'active', 'previous')
    ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION heal.touch IS 'Notes that chunks were touched, for every generation that is or may be served.';

-- A question that several chunks answer pulls each of them by its share, so they are touched together.
CREATE OR REPLACE FUNCTION heal.touch_chunks() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, heal AS $$
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
END
$$;

-- What has a budget already was moved without them.
INSERT INTO heal.nudge_touched
SELECT DISTINCT g.generation_id, q.chunk_id FROM heal.generation g, heal.question q
WHERE g.nudge_theta > 0 AND g.state IN ('ready', 'active', 'previous')
  AND q.split IN ('seen_validation', 'unseen_validation')
ON CONFLICT DO NOTHING;
