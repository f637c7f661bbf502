-- Tables of schema heal: documents, topics, questions, generations, and what runs leave behind.
-- Vectors are not here: every generation has tables of its own, made by heal_tasks.store.generations.generations.

CREATE TABLE heal.run (
    run_id        text PRIMARY KEY,
    started_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz,
    route         text CHECK (route IN ('nothing', 'nudge', 'realign')),
    route_reason  text,
    route_facts   jsonb,
    verdict       text,
    generation_id bigint,
    report_uri    text
);
COMMENT ON TABLE heal.run IS 'One row per pipeline run: which route it took, why, and what came of it.';

CREATE TABLE heal.step_result (
    step        text NOT NULL,
    fingerprint text NOT NULL,
    shard       integer NOT NULL DEFAULT 0,
    run_id      text NOT NULL,
    result      jsonb,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    done        bigint NOT NULL DEFAULT 0,
    total       bigint NOT NULL DEFAULT 0,
    message     text NOT NULL DEFAULT '',
    PRIMARY KEY (step, fingerprint, shard)
);
CREATE INDEX step_result_run ON heal.step_result (run_id);
COMMENT ON TABLE heal.step_result IS
    'One row per step and input: a repeated step finds its finished result here; a running one shows its progress.';

CREATE TABLE heal.source_file (
    source      text NOT NULL,
    path        text NOT NULL,
    fingerprint text NOT NULL,
    clean       boolean NOT NULL,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, path)
);
COMMENT ON TABLE heal.source_file IS
    'Source files as last read; one whose fingerprint (ETag, or size and modification time) is unchanged is not read again.';

CREATE TABLE heal.document (
    document_id  bigint PRIMARY KEY,
    source       text NOT NULL,
    external_id  text NOT NULL,
    path         text NOT NULL,
    title        text NOT NULL,
    body         text NOT NULL,
    metadata     jsonb NOT NULL DEFAULT '{}',
    content_hash text NOT NULL,
    duplicate_of bigint REFERENCES heal.document DEFERRABLE INITIALLY DEFERRED,
    created_at   timestamptz NOT NULL DEFAULT now(),
    changed_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz,
    UNIQUE (source, external_id)
);
CREATE INDEX document_source_path ON heal.document (source, path);
CREATE INDEX document_content ON heal.document (content_hash);
CREATE INDEX document_duplicate ON heal.document (duplicate_of) WHERE duplicate_of IS NOT NULL;
COMMENT ON TABLE heal.document IS
    'Documents as their sources give them. A deleted one keeps its row without title, body and metadata; '
    'an exact duplicate points to the one whose chunks stand for both.';

CREATE TABLE heal.chunk (
    chunk_id      bigint PRIMARY KEY,
    document_id   bigint NOT NULL REFERENCES heal.document ON DELETE CASCADE,
    ordinal       integer NOT NULL,
    text          text NOT NULL,
    content_hash  text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    superseded_at timestamptz
);
CREATE INDEX chunk_document ON heal.chunk (document_id, ordinal);
CREATE INDEX chunk_superseded ON heal.chunk (superseded_at) WHERE superseded_at IS NOT NULL;
COMMENT ON TABLE heal.chunk IS
    'Pieces of documents that have a vector each. The id contains the text''s hash, so a vector cannot be stale. '
    'A superseded chunk is served until its successor''s vector is published, then removed.';

CREATE TABLE heal.topic_run (
    topic_run_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fingerprint    text NOT NULL UNIQUE,
    uri            text NOT NULL,
    documents      integer NOT NULL,
    topics         integer NOT NULL,
    leaves         integer NOT NULL,
    depth          integer NOT NULL,
    churn          double precision,
    mean_residual  double precision NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE heal.topic_run IS 'One HNMFk topic tree each; the factors lie at uri.';

CREATE TABLE heal.topic (
    topic_run_id bigint NOT NULL REFERENCES heal.topic_run ON DELETE CASCADE,
    topic_id     bigint NOT NULL,
    parent_id    bigint,
    level        integer NOT NULL,
    first_leaf   integer NOT NULL,
    last_leaf    integer NOT NULL,
    terms        text[] NOT NULL,
    k            integer NOT NULL,
    silhouette   double precision,
    size         integer NOT NULL,
    stop_reason  text NOT NULL DEFAULT '',
    PRIMARY KEY (topic_run_id, topic_id),
    CHECK (first_leaf <= last_leaf)
);
COMMENT ON TABLE heal.topic IS
    'Topics. Leaves are numbered in tree order, so the subtree of a topic is the interval [first_leaf, last_leaf].';

CREATE TABLE heal.document_topic (
    topic_run_id bigint NOT NULL REFERENCES heal.topic_run ON DELETE CASCADE,
    document_id  bigint NOT NULL REFERENCES heal.document ON DELETE CASCADE,
    leaf         integer NOT NULL,
    path         bigint[] NOT NULL,
    membership   real NOT NULL,
    residual     real NOT NULL,
    projected    boolean NOT NULL,
    PRIMARY KEY (topic_run_id, document_id)
);
COMMENT ON TABLE heal.document_topic IS
    'Label path of each document, topic ids from level 1 down. projected: labelled by projection, not by the factorisation.';

CREATE TABLE heal.llm_call (
    call_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        text NOT NULL,
    purpose       text NOT NULL,
    model         text NOT NULL,
    prompt_hash   text NOT NULL,
    content_hash  text NOT NULL,
    chunk_id      bigint,
    status        text NOT NULL,
    input_tokens  integer NOT NULL DEFAULT 0,
    output_tokens integer NOT NULL DEFAULT 0,
    cost_usd      double precision NOT NULL DEFAULT 0,
    latency_s     double precision NOT NULL DEFAULT 0,
    raw_reply     text,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX llm_call_cache ON heal.llm_call (content_hash, prompt_hash, model) WHERE status = 'ok';
CREATE INDEX llm_call_run ON heal.llm_call (run_id);
CREATE INDEX llm_call_chunk ON heal.llm_call (chunk_id);
COMMENT ON TABLE heal.llm_call IS 'The ledger: every call to a language model with its tokens, cost and status.';

CREATE TABLE heal.question (
    question_id  bigint PRIMARY KEY,
    chunk_id     bigint NOT NULL REFERENCES heal.chunk ON DELETE CASCADE,
    text         text NOT NULL,
    answer       text NOT NULL,
    evidence     text NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('question', 'keyword', 'claim')),
    writer       text NOT NULL,
    model        text NOT NULL,
    prompt_hash  text NOT NULL,
    split        text NOT NULL
        CHECK (split IN ('train', 'seen_validation', 'seen_test', 'unseen_validation', 'unseen_test')),
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX question_chunk ON heal.question (chunk_id);
COMMENT ON TABLE heal.question IS
    'Questions with the chunk that answers them, an answer and verbatim evidence; writer says who wrote them.';

CREATE TABLE heal.chunk_asked (
    content_hash text NOT NULL,
    prompt_hash  text NOT NULL,
    model        text NOT NULL,
    chunk_id     bigint NOT NULL REFERENCES heal.chunk ON DELETE CASCADE,
    questions    integer NOT NULL,
    dropped      integer NOT NULL,
    asked_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chunk_id, prompt_hash, model)
);
CREATE INDEX chunk_asked_content ON heal.chunk_asked (content_hash, prompt_hash, model);
COMMENT ON TABLE heal.chunk_asked IS
    'Chunks for which questions were written, also where none survived the filters: nothing is asked or paid twice.';

CREATE TABLE heal.generation (
    generation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL CHECK (kind IN ('baseline', 'reference', 'trained')),
    state         text NOT NULL DEFAULT 'building'
        CHECK (state IN ('building', 'ready', 'active', 'previous', 'retired', 'failed')),
    run_id        text NOT NULL,
    model_uri     text NOT NULL,
    model_sha256  text NOT NULL,
    dims          integer NOT NULL CHECK (dims BETWEEN 1 AND 2000),
    topic_run_id  bigint REFERENCES heal.topic_run,
    metric        text NOT NULL DEFAULT 'cosine' CHECK (metric IN ('cosine', 'inner_product')),
    nudge_variant text NOT NULL DEFAULT 'none',
    nudge_theta   double precision NOT NULL DEFAULT 0,
    ef_search     integer NOT NULL DEFAULT 100,
    recall        double precision,
    metrics       jsonb NOT NULL DEFAULT '{}',
    note          text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    activated_at  timestamptz,
    retired_at    timestamptz
);
CREATE UNIQUE INDEX generation_one_active ON heal.generation (state) WHERE state = 'active';
CREATE UNIQUE INDEX generation_one_previous ON heal.generation (state) WHERE state = 'previous';
CREATE UNIQUE INDEX generation_one_baseline ON heal.generation (model_sha256) WHERE kind = 'baseline';
COMMENT ON TABLE heal.generation IS
    'One vector space each, with tables base_gNNNNNN (encoder output), vec_gNNNNNN (served) and question_gNNNNNN. '
    'kind baseline: the base model''s vectors, kept for mining and comparison, never served.';

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

CREATE TABLE heal.quarantine (
    quarantine_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        text NOT NULL,
    source        text NOT NULL,
    path          text NOT NULL,
    line          integer NOT NULL,
    reason        text NOT NULL,
    raw           text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (source, path, line, reason)
);
COMMENT ON TABLE heal.quarantine IS 'What was refused, where it came from and why. Nothing is lost: fix it at its source.';

-- Replaced by heal.activate; it exists from the start so that views may stand on it and grants have something to name.
CREATE VIEW heal.embedding AS
SELECT NULL::bigint AS chunk_id, NULL::bigint AS document_id, NULL::integer AS leaf, NULL::vector AS embedding,
       NULL::bigint AS generation_id
WHERE false;
COMMENT ON VIEW heal.embedding IS 'Served vectors of the active generation, for ad-hoc SQL.';
