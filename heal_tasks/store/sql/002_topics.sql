-- Topic trees, and the topics of each document in them.

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
COMMENT ON TABLE heal.topic_run IS 'HNMFk topic trees; the factors are stored at uri.';

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
    'Label path of each document: topic ids from level 1 down. projected: the document was projected on a finished tree.';
