-- How much evidence a row needs to be moved far, chosen by validation with the budget.

ALTER TABLE heal.generation ADD COLUMN nudge_prior double precision NOT NULL DEFAULT 0 CHECK (nudge_prior >= 0);
COMMENT ON COLUMN heal.generation.nudge_prior IS
    'How many questions a base vector counts as: a row goes no further than its questions and this many of itself.';
