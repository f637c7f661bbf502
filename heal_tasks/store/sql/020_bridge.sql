-- Maps between spaces: a query vector of a retired generation is mapped into the space of the live one.

CREATE TABLE heal.bridge (
    from_space    bigint NOT NULL REFERENCES heal.space ON DELETE CASCADE,
    to_space      bigint NOT NULL REFERENCES heal.space ON DELETE CASCADE,
    method        text NOT NULL CHECK (method IN ('fitted', 'composed')),
    pairs         integer NOT NULL,
    questions     integer NOT NULL,
    recall        double precision NOT NULL,
    native_recall double precision NOT NULL CHECK (native_recall > 0),
    min_share     double precision NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (from_space, to_space),
    CHECK (from_space <> to_space)
);
CREATE INDEX bridge_to_space ON heal.bridge (to_space);
COMMENT ON TABLE heal.bridge IS
    'Linear maps from the query vectors of one space to those of another, fitted when a generation of another space is published.';
COMMENT ON COLUMN heal.bridge.method IS
    'fitted: to vectors that both spaces have of the same texts; composed: of the map into the space that was live and the map from there.';
COMMENT ON COLUMN heal.bridge.pairs IS 'Texts, chunks and questions, that the map was fitted to; of a composed map those of its last part.';
COMMENT ON COLUMN heal.bridge.questions IS 'Test questions, which the map was not fitted to, that it was measured on.';
COMMENT ON COLUMN heal.bridge.recall IS
    'recall@10 of mapped query vectors among the served rows of a generation: the share of the right documents that are found.';
COMMENT ON COLUMN heal.bridge.native_recall IS 'recall@10 of the vectors that the encoder of the new space gives to the same questions.';
COMMENT ON COLUMN heal.bridge.min_share IS 'HEAL_BRIDGE_MIN_RECALL: the least recall / native_recall of a map that is used.';

CREATE TABLE heal.bridge_row (
    from_space bigint NOT NULL,
    to_space   bigint NOT NULL,
    place      integer NOT NULL,
    weights    vector NOT NULL,
    shift      real NOT NULL,
    PRIMARY KEY (from_space, to_space, place),
    FOREIGN KEY (from_space, to_space) REFERENCES heal.bridge ON DELETE CASCADE
);
COMMENT ON TABLE heal.bridge_row IS
    'Rows of the maps: coordinate `place` of a mapped vector is the inner product of weights and the query vector, plus shift.';

CREATE TABLE heal.bridge_probe (
    space_id    bigint NOT NULL REFERENCES heal.space ON DELETE CASCADE,
    question_id bigint NOT NULL REFERENCES heal.question ON DELETE CASCADE,
    embedding   vector NOT NULL,
    PRIMARY KEY (space_id, question_id)
);
CREATE INDEX bridge_probe_question ON heal.bridge_probe (question_id);
COMMENT ON TABLE heal.bridge_probe IS
    'Vectors of test questions by the encoders of earlier spaces, on which maps are measured after the tables of these spaces are dropped.';
