-- When the rows of a generation were last changed in place. With the generation's number it tells whether a stored answer is out of date.
-- heal.announce sets it.

ALTER TABLE heal.generation ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
UPDATE heal.generation SET changed_at = coalesce(activated_at, created_at);
COMMENT ON COLUMN heal.generation.changed_at IS
    'When the served rows were last written. Documents that came later are not in the generation.';
