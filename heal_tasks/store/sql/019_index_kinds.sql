-- Vectors of up to 4,000 dimensions, which an index holds as 16-bit copies or as bits, and indexes of bits.

ALTER TABLE heal.space DROP CONSTRAINT space_dims_check, ADD CONSTRAINT space_dims_check CHECK (dims BETWEEN 1 AND 4000);
COMMENT ON COLUMN heal.space.dims IS 'Dimensions of the vectors; HNSW indexes at most 2000 of 32 bits, 4000 of 16 bits.';

ALTER TABLE heal.generation DROP CONSTRAINT generation_index_kind_check,
    ADD CONSTRAINT generation_index_kind_check CHECK (index_kind IN ('none', 'vector', 'halfvec', 'bit')),
    ADD COLUMN oversampling integer NOT NULL DEFAULT 1 CHECK (oversampling BETWEEN 1 AND 200);
COMMENT ON COLUMN heal.generation.index_kind IS
    'Content of the HNSW index: the vectors, 16-bit copies in half the space, or a bit for the sign of each coordinate; none: few rows, '
    'every search is exact.';
COMMENT ON COLUMN heal.generation.oversampling IS
    'Candidates for each row wanted, which a search by an index of bits compares by their full vectors; chosen by measured recall.';

-- Their arguments have changed; api_plan.sql makes them again.
DROP FUNCTION IF EXISTS heal.search_statement(heal.generation, text, text, text);
DROP FUNCTION IF EXISTS heal.search_planned(vector, bigint, text, int);
DROP FUNCTION IF EXISTS heal.find_planned(vector, bigint, text, int, double precision, tsquery, tsquery[], real[]);
