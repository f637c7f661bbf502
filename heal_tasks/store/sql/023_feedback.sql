-- Votes of the people who search, on whether a document answers a question.

CREATE TABLE heal.feedback (
    document_id  bigint NOT NULL REFERENCES heal.document ON DELETE CASCADE,
    question_key bigint NOT NULL,
    voter        text NOT NULL,
    question     text NOT NULL,
    good         boolean NOT NULL,
    given_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (voter, document_id, question_key)
);
CREATE INDEX feedback_document ON heal.feedback (document_id, question_key);
COMMENT ON TABLE heal.feedback IS
    'Votes on whether a document answers a question; the last one of each person counts. Where enough people agree, the next run makes '
    'a judgment of them (heal.question with model feedback), and takes it back when they agree no longer.';
COMMENT ON COLUMN heal.feedback.question_key IS 'heal.text_key(question): case is ignored.';
COMMENT ON COLUMN heal.feedback.voter IS 'The user who was logged in, or the name that the pipeline''s role has given.';
