-- Spaces (the vectors of one encoder each), generations (what is served) and their evaluation.
-- The vectors are in tables of their own, made by heal_tasks.store.spaces and heal_tasks.store.generations.

CREATE TABLE heal.space (
    space_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_uri    text NOT NULL,
    model_sha256 text NOT NULL UNIQUE,
    dims         integer NOT NULL CHECK (dims BETWEEN 1 AND 2000),
    created_at   timestamptz NOT NULL DEFAULT now(),
    used_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (space_id, dims)
);
COMMENT ON TABLE heal.space IS
    'One row per encoder. Tables base_sNNNNNN and question_sNNNNNN hold its vectors of chunks and of questions.';
COMMENT ON COLUMN heal.space.model_sha256 IS 'Hash of the encoder''s files: equal hashes mean equal vectors.';
COMMENT ON COLUMN heal.space.dims IS 'Dimensions of the vectors; HNSW indexes at most 2000.';
COMMENT ON COLUMN heal.space.used_at IS
    'When a run last asked for the space: a run may use it for hours before a generation does.';

CREATE TABLE heal.generation (
    generation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state         text NOT NULL DEFAULT 'building'
        CHECK (state IN ('building', 'ready', 'active', 'previous', 'retired', 'failed')),
    run_id        text NOT NULL,
    space_id      bigint NOT NULL,
    dims          integer NOT NULL,
    topic_run_id  bigint REFERENCES heal.topic_run,
    metric        text NOT NULL DEFAULT 'cosine' CHECK (metric IN ('cosine', 'inner_product')),
    nudge         jsonb CHECK (jsonb_typeof(nudge) = 'object'),
    ef_search     integer NOT NULL DEFAULT 100,
    index_kind    text NOT NULL DEFAULT 'vector' CHECK (index_kind IN ('none', 'vector', 'halfvec')),
    recall        double precision,
    metrics       jsonb NOT NULL DEFAULT '{}',
    note          text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    activated_at  timestamptz,
    retired_at    timestamptz,
    FOREIGN KEY (space_id, dims) REFERENCES heal.space (space_id, dims)
);
CREATE UNIQUE INDEX generation_one_active ON heal.generation (state) WHERE state = 'active';
CREATE UNIQUE INDEX generation_one_previous ON heal.generation (state) WHERE state = 'previous';
COMMENT ON TABLE heal.generation IS
    'One row per generation: vectors of a space, moved by questions or not, served with the topics of a topic run. '
    'Table vec_gNNNNNN holds the served rows; push_gNNNNNN the contrastive displacements of rows, if the record has any.';
COMMENT ON COLUMN heal.generation.dims IS 'Dimensions of the space, repeated here so that a search reads one table less.';
COMMENT ON COLUMN heal.generation.nudge IS
    'How rows were moved (heal_tasks.nudge.plan.NudgeRecord): variant, theta, prior, centre, contrast_steps, '
    'answer_count_exponent, by_people. Rows that arrive later are moved in the same way. null: rows are not moved.';
COMMENT ON COLUMN heal.generation.index_kind IS
    'Content of the HNSW index: the vectors, or 16-bit copies in half the space; none: few rows, every search is exact.';

CREATE TABLE heal.contrast_level (
    generation_id bigint NOT NULL REFERENCES heal.generation ON DELETE CASCADE,
    question_id   bigint NOT NULL REFERENCES heal.question ON DELETE CASCADE,
    level         real NOT NULL,
    weight        real NOT NULL,
    PRIMARY KEY (generation_id, question_id)
);
CREATE INDEX contrast_level_question ON heal.contrast_level (question_id);
COMMENT ON TABLE heal.contrast_level IS
    'Questions that displaced rows when a generation was nudged with contrast: log-sum-exp of the question''s similarities to '
    'all rows (level), and the question''s weight. They normalise the displacement of rows that arrive later.';

CREATE TABLE heal.evaluation (
    evaluation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        text NOT NULL,
    generation_id bigint REFERENCES heal.generation ON DELETE CASCADE,
    system        text NOT NULL,
    question_set  text NOT NULL,
    metric        text NOT NULL,
    value         double precision NOT NULL,
    low           double precision,
    high          double precision,
    rival         text,
    difference    double precision,
    diff_low      double precision,
    diff_high     double precision,
    questions     integer NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX evaluation_run ON heal.evaluation (run_id);
COMMENT ON TABLE heal.evaluation IS
    'Retrieval quality by system and question set, with 95 % intervals, and the paired difference to the rival.';

-- Replaced by heal.activate. It exists from the start, so that other views can use it and rights can be granted on it.
CREATE VIEW heal.embedding AS
SELECT NULL::bigint AS chunk_id, NULL::bigint AS document_id, NULL::integer AS leaf, NULL::vector AS embedding,
       NULL::bigint AS generation_id
WHERE false;
COMMENT ON VIEW heal.embedding IS 'Served vectors of the live generation.';
