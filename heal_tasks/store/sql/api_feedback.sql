-- Feedback on answers. Repeatable: applied again whenever this file changes.

-- 10,000 votes a person: years of work for one, and a bound for a program that votes in a loop.
CREATE OR REPLACE FUNCTION heal.feedback(question text, chunk bigint, good boolean, voter text DEFAULT NULL)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_column
DECLARE
    asked CONSTANT text := btrim(feedback.question, E' \t\r\n');
    who CONSTANT text := coalesce(feedback.voter, session_user);
    about bigint := (SELECT c.document_id FROM heal.chunk c WHERE c.chunk_id = feedback.chunk AND heal.may_read(c.document_id));
BEGIN
    IF coalesce(length(asked), 0) NOT BETWEEN 1 AND 2000 THEN
        RAISE EXCEPTION 'the question has % characters, and 1 to 2000 are allowed', coalesce(length(asked), 0)
            USING ERRCODE = 'HEA03', HINT = 'Pass the question as it was searched for.';
    ELSIF length(who) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION 'the voter has % characters, and 1 to 200 are allowed', length(who) USING ERRCODE = 'HEA03';
    ELSIF feedback.voter IS DISTINCT FROM session_user AND feedback.voter IS NOT NULL
        AND (to_regrole('heal_pipeline') IS NULL OR NOT pg_has_role(session_user, 'heal_pipeline', 'MEMBER'))
        AND NOT pg_has_role(session_user, (SELECT nspowner FROM pg_namespace WHERE nspname = 'heal'), 'MEMBER') THEN
        RAISE EXCEPTION '% may not vote for %', session_user, feedback.voter
            USING ERRCODE = 'HEA03', HINT = 'Leave the voter out; only members of heal_pipeline vote for others.';
    ELSIF about IS NULL THEN
        RAISE EXCEPTION 'there is no chunk %', coalesce(feedback.chunk::text, 'null')
            USING ERRCODE = 'HEA03', HINT = 'Pass chunk_id of a row that a search has returned; its text may have changed since.';
    END IF;
    IF feedback.good IS NULL THEN
        DELETE FROM heal.feedback f
        WHERE (f.voter, f.document_id, f.question_key) = (who, about, heal.text_key(asked));
        RETURN;
    END IF;
    IF (SELECT count(*) >= 10000 FROM heal.feedback f WHERE f.voter = who) AND NOT EXISTS (
        SELECT FROM heal.feedback f WHERE (f.voter, f.document_id, f.question_key) = (who, about, heal.text_key(asked))) THEN
        RAISE EXCEPTION '% has 10000 votes, the most that are kept', who
            USING ERRCODE = 'HEA03', HINT = 'python -m heal_tasks feedback remove --voter NAME removes them.';
    END IF;
    INSERT INTO heal.feedback AS f (document_id, question_key, voter, question, good)
    VALUES (about, heal.text_key(asked), who, asked, feedback.good)
    ON CONFLICT (voter, document_id, question_key)
        DO UPDATE SET question = EXCLUDED.question, good = EXCLUDED.good, given_at = now();
END $$;
COMMENT ON FUNCTION heal.feedback IS
    'Says whether a chunk''s document answers a question; a later vote replaces the first, null takes it back. Only members of '
    'heal_pipeline may name another voter than the user who is logged in.';
