-- Where people have asked enough, their questions alone move rows.

ALTER TABLE heal.generation ADD COLUMN nudge_by_people boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN heal.generation.nudge_by_people IS
    'Whether the budget was chosen by people''s questions, so that these alone move rows and written ones do not.';
