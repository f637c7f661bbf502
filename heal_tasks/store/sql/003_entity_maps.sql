-- Entity maps of chunks, as a language model wrote them and their texts confirm them.

CREATE TABLE heal.entity_map (
    chunk_id     bigint NOT NULL REFERENCES heal.chunk ON DELETE CASCADE,
    content_hash text NOT NULL,
    prompt_hash  text NOT NULL,
    model        text NOT NULL,
    status       text NOT NULL CHECK (status IN ('ok', 'empty', 'long', 'short', 'refused', 'invalid')),
    map          jsonb NOT NULL,
    dropped      integer NOT NULL,
    map_tokens   integer NOT NULL,
    text_tokens  integer NOT NULL,
    mapped_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chunk_id, prompt_hash, model)
);
CREATE INDEX entity_map_content ON heal.entity_map (content_hash, prompt_hash, model);
COMMENT ON TABLE heal.entity_map IS
    'Entities, attributes and relations that a chunk names. Training uses those with status ok. empty: the chunk states no '
    'fact; long, short: the rendered map is longer than the text or below 15 % of it; refused, invalid: the model gave '
    'none. All are kept, so that nothing is asked or paid twice. Tokens are the base model''s.';
