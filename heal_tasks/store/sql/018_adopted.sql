-- Tables of vectors that another application owns, and that documents and vectors are read from (`python -m heal_tasks adopt`).

CREATE TABLE heal.adopted (
    source             text PRIMARY KEY,
    schema_name        text NOT NULL,
    table_name         text NOT NULL,
    id_column          text NOT NULL,
    text_column        text NOT NULL,
    vector_column      text NOT NULL,
    metadata_column    text NOT NULL DEFAULT '',
    other_columns      text[] NOT NULL DEFAULT '{}',
    updated_column     text NOT NULL DEFAULT '',
    condition_column   text NOT NULL DEFAULT '',
    condition_value    text NOT NULL DEFAULT '',
    preset             text NOT NULL DEFAULT '',
    model              text NOT NULL,
    model_sha256       text NOT NULL DEFAULT '',
    dims               integer NOT NULL CHECK (dims > 0),
    parts              integer NOT NULL CHECK (parts > 0),
    checked            text NOT NULL,
    own_queries        boolean NOT NULL DEFAULT true,
    adopted_at         timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE heal.adopted IS
    'Tables of other applications whose rows are documents and whose vectors are those of a model. They are only ever read.';
COMMENT ON COLUMN heal.adopted.source IS 'The source as in HEAL_SOURCES: table:SCHEMA.TABLE, or table:SCHEMA.TABLE#COLLECTION.';
COMMENT ON COLUMN heal.adopted.metadata_column IS 'Column of type json or jsonb with the metadata; empty for none.';
COMMENT ON COLUMN heal.adopted.other_columns IS 'Columns that are read into the metadata, too.';
COMMENT ON COLUMN heal.adopted.updated_column IS 'Column that changes with the row; empty: changes are found by a hash of text and metadata.';
COMMENT ON COLUMN heal.adopted.condition_column IS 'Column that has condition_value in every row that is read; empty: all rows are.';
COMMENT ON COLUMN heal.adopted.preset IS 'The client that wrote the table; empty for columns that were named one by one.';
COMMENT ON COLUMN heal.adopted.model IS 'The model of the vectors, as in HEAL_MODEL.';
COMMENT ON COLUMN heal.adopted.model_sha256 IS
    'heal.space.model_sha256 of the model that the vectors were compared with; empty: not compared yet, the first run does it.';
COMMENT ON COLUMN heal.adopted.parts IS 'Rows are read in so many parts, by a hash of the id; a part without a change is not read again.';
COMMENT ON COLUMN heal.adopted.checked IS 'How the vectors were compared with the model, or why they were not.';
COMMENT ON COLUMN heal.adopted.own_queries IS
    'True: clients encode their queries with the model themselves, so no other model''s vectors may be served. False: by heal_tasks serve.';

-- The views for clients find the documents of a chunk, exact duplicates included.
CREATE INDEX document_canonical ON heal.document (coalesce(duplicate_of, document_id)) WHERE deleted_at IS NULL;
