-- The switch, deletions and recall. Repeatable: applied again whenever this file changes.

-- A notification is delivered when the transaction commits, and only then. Anybody may send one, so receivers read the state again.
CREATE OR REPLACE PROCEDURE heal.announce(kind text, gen bigint DEFAULT NULL, previous bigint DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    gen := coalesce(gen, (SELECT g.generation_id FROM heal.generation g WHERE g.state = 'active'));
    IF kind = 'rows' THEN
        UPDATE heal.generation SET changed_at = now() WHERE generation_id = gen;
    END IF;
    PERFORM pg_notify('heal_switch', jsonb_build_object(
        'kind', kind, 'generation', gen, 'previous', previous, 'model_uri', s.model_uri,
        'space_changed', kind = 'switch' AND NOT EXISTS (
            SELECT FROM heal.generation p WHERE p.generation_id = previous AND p.space_id = s.space_id))::text)
    FROM heal.generation g JOIN heal.space s USING (space_id) WHERE g.generation_id = gen;
END $$;
COMMENT ON PROCEDURE heal.announce IS
    'Notifies the listeners of channel heal_switch of a switch (kind switch), or of rows written or deleted in place (rows) in a generation '
    '(default: the live one).';

-- The old generations change state first, because the two unique partial indexes are checked at each update.
-- SECURITY DEFINER, because only its owner may replace the view.
CREATE OR REPLACE PROCEDURE heal.activate(gen bigint)
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    target heal.generation;
    old bigint;
BEGIN
    LOCK TABLE heal.lock_activate IN EXCLUSIVE MODE;
    SELECT * INTO target FROM heal.generation g WHERE g.generation_id = gen FOR UPDATE;
    IF target.state = 'active' THEN
        RETURN;
    END IF;
    IF target.generation_id IS NULL OR target.state NOT IN ('ready', 'previous') THEN
        RAISE EXCEPTION 'generation % cannot be activated (%)', coalesce(gen::text, 'null'), coalesce(target.state, 'unknown')
            USING ERRCODE = 'HEA01',
                  HINT = 'SELECT generation_id, state FROM heal.generation_status WHERE state IN (''ready'', ''previous'') lists the candidates.';
    END IF;
    IF target.state = 'ready' THEN
        UPDATE heal.generation SET state = 'retired', retired_at = now() WHERE state = 'previous';
    ELSE
        UPDATE heal.generation SET state = 'ready' WHERE generation_id = gen;
    END IF;
    UPDATE heal.generation SET state = 'previous' WHERE state = 'active' RETURNING generation_id INTO old;
    UPDATE heal.generation SET state = 'active', activated_at = now() WHERE generation_id = gen;
    EXECUTE format(
        'CREATE OR REPLACE VIEW heal.served AS
         SELECT v.chunk_id, v.document_id, v.leaf, v.embedding::vector AS embedding, %s::bigint AS generation_id
         FROM heal.%I v', gen, heal.vector_table(gen));
    CALL heal.plan_searches();
    CALL heal.announce('switch', gen, old);
END $$;
COMMENT ON PROCEDURE heal.activate IS
    'Switches to a ready or the previous generation (rollback) in one transaction; set lock_timeout and retry around it.';

CREATE OR REPLACE FUNCTION heal.kth_distances(gen bigint, n int DEFAULT 200, k int DEFAULT 10)
RETURNS double precision[] LANGUAGE plpgsql STABLE AS $$
DECLARE
    gen_row heal.generation;
    found double precision[];
BEGIN
    SELECT * INTO gen_row FROM heal.generation g WHERE g.generation_id = gen;
    IF gen_row.generation_id IS NULL OR n IS NULL OR n < 1 THEN
        RAISE EXCEPTION 'recall of generation % with % questions cannot be measured', coalesce(gen::text, 'null'),
            coalesce(n::text, 'null') USING ERRCODE = 'HEA03', HINT = 'SELECT generation_id FROM heal.generation_status; n is at least 1.';
    END IF;
    -- Ordered by a hash, so that the sample stays the same.
    EXECUTE format(
        'WITH asked AS MATERIALIZED (SELECT q.question_id, q.embedding FROM heal.%I q
                                     ORDER BY hashint8(q.question_id), q.question_id LIMIT $2)
         SELECT array_agg(ARRAY[exact.furthest, exact.rows] ORDER BY hashint8(a.question_id), a.question_id)
         FROM asked a CROSS JOIN LATERAL (SELECT max(e.distance) AS furthest, count(*) AS rows
                                          FROM heal.nearest(a.embedding, $1, $3, exact => true) e) exact',
        heal.space_table(gen_row.space_id, 'question'))
        INTO found USING gen_row, n, k;
    RETURN found;
END $$;
COMMENT ON FUNCTION heal.kth_distances IS
    'For n stored questions the distance of the k-th nearest chunk, and the number of chunks up to k, by comparing all rows; null without '
    'questions.';

CREATE OR REPLACE FUNCTION heal.recall_against(gen bigint, exact double precision[], k int DEFAULT 10)
RETURNS double precision LANGUAGE plpgsql STABLE AS $$
DECLARE
    gen_row heal.generation;
    share double precision;
BEGIN
    IF exact IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT * INTO gen_row FROM heal.generation g WHERE g.generation_id = gen;
    -- Compared by distance and not by id, because of two equally near chunks either is right.
    EXECUTE format(
        'WITH asked AS MATERIALIZED (SELECT q.question_id, q.embedding FROM heal.%I q
                                     ORDER BY hashint8(q.question_id), q.question_id LIMIT array_length($2, 1)),
         numbered AS (SELECT a.embedding, row_number() OVER (ORDER BY hashint8(a.question_id), a.question_id) AS number FROM asked a)
         SELECT avg((SELECT count(*) FROM heal.nearest(a.embedding, $1, $3) f WHERE f.distance <= $2[a.number][1] + 1e-6)::float8
                    / nullif($2[a.number][2], 0)) FROM numbered a', heal.space_table(gen_row.space_id, 'question'))
        INTO share USING gen_row, exact, k;
    RETURN share;
END $$;
COMMENT ON FUNCTION heal.recall_against IS
    'heal.recall with what heal.kth_distances has found, so that several efforts of a search are measured after one exact search.';

CREATE OR REPLACE FUNCTION heal.recall(gen bigint, n int DEFAULT 200, k int DEFAULT 10)
RETURNS double precision LANGUAGE sql STABLE AS $$ SELECT heal.recall_against(gen, heal.kth_distances(gen, n, k), k) $$;
COMMENT ON FUNCTION heal.recall IS
    'Share of the true k nearest chunks that the index finds for n stored questions; null without questions or rows.';

-- Deletions. A duplicate of a deleted document becomes canonical and gets chunks of its own, so their ids have to be computed here, too:
-- the same hash of the parts, each with its length before it, as heal_tasks.core.ids.stable_id (a test compares them).
CREATE OR REPLACE FUNCTION heal.stable_id(VARIADIC parts text[])
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT (('x' || encode(substr(sha256(string_agg(
        decode(lpad(to_hex(octet_length(part)), 16, '0'), 'hex') || convert_to(part, 'UTF8'), ''::bytea ORDER BY number)), 1, 8),
        'hex'))::bit(64) >> 1)::bigint
    FROM unnest(parts) WITH ORDINALITY AS p (part, number)
$$;
COMMENT ON FUNCTION heal.stable_id IS 'Id from the parts of a natural key, as heal_tasks.core.ids.stable_id makes it.';

CREATE OR REPLACE FUNCTION heal.chunk_id(document bigint, ordinal int, content_hash text)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT heal.stable_id('chunk', document::text, ordinal::text, content_hash) $$;
COMMENT ON FUNCTION heal.chunk_id IS 'Id of a chunk, from its document, place and text.';

CREATE OR REPLACE PROCEDURE heal.delete_chunks(chunks bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    questions bigint[];
    stems text[];
    asked text[];
    item record;
BEGIN
    IF cardinality(chunks) = 0 THEN
        RETURN;
    END IF;
    LOCK TABLE heal.lock_corpus IN EXCLUSIVE MODE;
    stems := ARRAY(SELECT DISTINCT s.lexeme FROM heal.chunk c, unnest(c.words) s WHERE c.chunk_id = ANY (chunks));
    questions := ARRAY(SELECT q.question_id FROM heal.question q WHERE q.chunk_id = ANY (chunks));
    asked := ARRAY(SELECT DISTINCT s.lexeme
                   FROM heal.question q JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id),
                        unnest(heal.to_words(d.language, q.text)) s
                   WHERE q.question_id = ANY (questions) AND q.writer <> 'extractive');
    FOR item IN
        SELECT t.name, t.key FROM (
            SELECT heal.space_table(s.space_id, p.prefix), p.key FROM heal.space s,
                (VALUES ('base', 'chunk_id'), ('question', 'question_id')) AS p (prefix, key)
            UNION ALL
            SELECT heal.vector_table(g.generation_id, p.prefix), 'chunk_id' FROM heal.generation g,
                (VALUES ('vec'), ('push')) AS p (prefix)) AS t (name, key)
        WHERE to_regclass('heal.' || t.name) IS NOT NULL
    LOOP
        EXECUTE format('DELETE FROM heal.%I WHERE %I = ANY ($1)', item.name, item.key)
            USING CASE item.key WHEN 'question_id' THEN questions ELSE chunks END;
    END LOOP;
    UPDATE heal.llm_call SET raw_reply = NULL WHERE chunk_id = ANY (chunks) AND raw_reply IS NOT NULL;
    UPDATE heal.llm_batch_row SET problem = '' WHERE chunk_id = ANY (chunks);
    DELETE FROM heal.answer WHERE chunk_ids && chunks;
    DELETE FROM heal.chunk WHERE chunk_id = ANY (chunks);
    -- Most stems are in any two thousand chunks. The index would list all chunks that have such a stem, to find that there is one.
    stems := ARRAY(SELECT s FROM unnest(stems) s EXCEPT
                   SELECT w.lexeme FROM (SELECT c.words FROM heal.chunk c LIMIT 2000) c, unnest(c.words) w);
    stems := ARRAY(SELECT s FROM unnest(stems) s
                   WHERE NOT EXISTS (SELECT FROM heal.chunk c WHERE c.words @@ quote_literal(s)::tsquery));
    -- A stem that questions alone have stays if any two thousand of the others have it; the next lexicon has the rest again.
    asked := ARRAY(SELECT s FROM unnest(asked) s EXCEPT
                   SELECT w.lexeme
                   FROM (SELECT q.text, d.language
                         FROM heal.question q JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
                         WHERE q.writer <> 'extractive' AND cardinality(asked) > 0 LIMIT 2000) q,
                        unnest(heal.to_words(q.language, q.text)) w);
    FOR item IN
        SELECT heal.vector_table(g.generation_id, 'lex') AS name FROM heal.generation g WHERE cardinality(stems || asked) > 0
    LOOP
        IF to_regclass('heal.' || item.name) IS NOT NULL THEN
            EXECUTE format('DELETE FROM heal.%I WHERE chunks > 0 AND stem = ANY ($1) OR chunks = 0 AND stem = ANY ($2)', item.name)
                USING stems, asked;
        END IF;
    END LOOP;
    CALL heal.announce('rows');
END $$;
COMMENT ON PROCEDURE heal.delete_chunks IS
    'Deletes chunks everywhere: text, questions, entity maps, answers, replies of models, the vectors of all spaces and generations, '
    'and from all lexicons the stems that no other chunk has, and those that only its questions have.';

-- A question stays on its side of training and test; whether its document is an unseen one depends on the document.
CREATE OR REPLACE FUNCTION heal.split_at(document bigint, split text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN heal.stable_id('bucket', 'document-split', document::text) % 1000 < 200
                THEN CASE WHEN split LIKE '%test' THEN 'unseen_test' ELSE 'unseen_validation' END
                ELSE replace(split, 'unseen', 'seen') END
$$;
COMMENT ON FUNCTION heal.split_at IS
    'The split of a question that goes over to an equal text of another document (heal_tasks.questions.splits.is_unseen).';

-- What was written about chunks, by people or by a language model, goes over to equal texts.
CREATE OR REPLACE PROCEDURE heal.hand_over(old_chunks bigint[], new_chunks bigint[])
LANGUAGE plpgsql AS $$
DECLARE
    item record;
BEGIN
    UPDATE heal.question q SET chunk_id = n.chunk_id,
        split = CASE n.document_id WHEN o.document_id THEN q.split ELSE heal.split_at(n.document_id, q.split) END
    FROM unnest(old_chunks, new_chunks) AS p (old, new) JOIN heal.chunk n ON n.chunk_id = p.new JOIN heal.chunk o ON o.chunk_id = p.old
    WHERE q.chunk_id = p.old;
    UPDATE heal.feedback f SET document_id = p.new FROM (
        SELECT o.document_id AS old, min(n.document_id) AS new
        FROM unnest(old_chunks, new_chunks) AS p (old, new) JOIN heal.chunk n ON n.chunk_id = p.new JOIN heal.chunk o ON o.chunk_id = p.old
        WHERE o.document_id <> n.document_id GROUP BY 1) p
    WHERE f.document_id = p.old AND NOT EXISTS (SELECT FROM heal.feedback o
        WHERE (o.voter, o.document_id, o.question_key) = (f.voter, p.new, f.question_key));
    FOR item IN SELECT unnest(ARRAY['chunk_asked', 'entity_map']) AS name LOOP
        EXECUTE format('UPDATE heal.%1$I w SET chunk_id = p.new, content_hash = n.content_hash
                        FROM unnest($1, $2) AS p (old, new) JOIN heal.chunk n ON n.chunk_id = p.new
                        WHERE w.chunk_id = p.old AND NOT EXISTS (SELECT FROM heal.%1$I o
                            WHERE (o.chunk_id, o.prompt_hash, o.model) = (p.new, w.prompt_hash, w.model))', item.name)
            USING old_chunks, new_chunks;
    END LOOP;
END $$;
COMMENT ON PROCEDURE heal.hand_over IS
    'Gives questions, judgments, feedback and entity maps of chunks to chunks with equal texts, before the first are deleted.';

CREATE OR REPLACE FUNCTION heal.delete_document(
    VARIADIC documents bigint[], OUT documents_deleted int, OUT chunks_added int
)
LANGUAGE plpgsql AS $$
DECLARE
    gone bigint[];
    chunks bigint[];
    added bigint[];
    old bigint[];
    name text;
    item record;
BEGIN
    LOCK TABLE heal.lock_corpus IN EXCLUSIVE MODE;
    gone := ARRAY(SELECT d.document_id FROM heal.document d WHERE d.document_id = ANY (documents) AND d.deleted_at IS NULL);
    WITH heir AS (
        SELECT DISTINCT ON (d.duplicate_of) d.document_id, d.duplicate_of FROM heal.document d
        WHERE d.duplicate_of = ANY (gone) AND d.document_id <> ALL (gone) AND d.deleted_at IS NULL
        ORDER BY d.duplicate_of, d.created_at, d.document_id
    ), moved AS (
        UPDATE heal.document d SET duplicate_of = nullif(h.document_id, d.document_id)
        FROM heir h WHERE d.duplicate_of = h.duplicate_of AND d.document_id <> ALL (gone)
    ), made AS (
        INSERT INTO heal.chunk (chunk_id, document_id, ordinal, heading, text, content_hash)
        SELECT heal.chunk_id(h.document_id, c.ordinal, c.content_hash), h.document_id, c.ordinal, c.heading, c.text, c.content_hash
        FROM heir h JOIN heal.chunk c ON c.document_id = h.duplicate_of AND c.superseded_at IS NULL
        ON CONFLICT (chunk_id) DO UPDATE SET superseded_at = NULL, ordinal = EXCLUDED.ordinal
        RETURNING chunk_id, document_id, ordinal
    )
    SELECT coalesce(array_agg(m.chunk_id), '{}'), array_agg(c.chunk_id) INTO added, old
    FROM made m JOIN heir h ON h.document_id = m.document_id
    JOIN heal.chunk c ON c.document_id = h.duplicate_of AND c.ordinal = m.ordinal AND c.superseded_at IS NULL;
    chunks_added := cardinality(added);
    documents_deleted := cardinality(gone);
    chunks := ARRAY(SELECT c.chunk_id FROM heal.chunk c WHERE c.document_id = ANY (gone));
    -- An equal text has an equal vector. A run that has embedded all chunks already would miss those of the new ones.
    FOR name IN SELECT heal.space_table(s.space_id) FROM heal.space s WHERE chunks_added > 0 LOOP
        IF to_regclass('heal.' || name) IS NOT NULL THEN
            EXECUTE format('INSERT INTO heal.%1$I (chunk_id, embedding)
                            SELECT DISTINCT ON (n.chunk_id) n.chunk_id, b.embedding FROM heal.chunk o JOIN heal.%1$I b USING (chunk_id)
                            JOIN heal.chunk n ON n.content_hash = o.content_hash AND n.chunk_id = ANY ($2)
                            WHERE o.chunk_id = ANY ($1) ON CONFLICT DO NOTHING', name) USING chunks, added;
        END IF;
    END LOOP;
    CALL heal.hand_over(old, added);
    -- Their served vectors, too.
    FOR item IN SELECT heal.vector_table(g.generation_id, 'vec') AS vec, heal.vector_table(g.generation_id, 'push') AS push
                FROM heal.generation g LOOP
        IF to_regclass('heal.' || item.vec) IS NOT NULL THEN
            EXECUTE format('UPDATE heal.%1$I v SET chunk_id = c.chunk_id, document_id = c.document_id
                            FROM unnest($1, $2) AS p (old, new) JOIN heal.chunk c ON c.chunk_id = p.new
                            WHERE v.chunk_id = p.old AND NOT EXISTS (SELECT FROM heal.%1$I o WHERE o.chunk_id = p.new)', item.vec)
                USING old, added;
        END IF;
        IF to_regclass('heal.' || item.push) IS NOT NULL THEN
            EXECUTE format('UPDATE heal.%1$I v SET chunk_id = p.new FROM unnest($1, $2) AS p (old, new)
                            WHERE v.chunk_id = p.old AND NOT EXISTS (SELECT FROM heal.%1$I o WHERE o.chunk_id = p.new)', item.push)
                USING old, added;
        END IF;
    END LOOP;
    CALL heal.delete_chunks(chunks);
    DELETE FROM heal.document_topic t WHERE t.document_id = ANY (gone);
    DELETE FROM heal.feedback f WHERE f.document_id = ANY (gone);
    UPDATE heal.document d SET deleted_at = now(), duplicate_of = NULL, title = '', body = '', content_hash = '', metadata = '{}',
        acl = NULL
    WHERE d.document_id = ANY (gone);
END $$;
COMMENT ON FUNCTION heal.delete_document IS
    'Deletes documents at once and everywhere in the database; files that quote them are deleted by the next heal_maintain run.';
