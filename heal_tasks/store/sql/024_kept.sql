-- What an attempt at a step has noted for the next one.

ALTER TABLE heal.step_result ADD kept jsonb;
COMMENT ON COLUMN heal.step_result.kept IS
    'What an attempt that was killed had done already, written in the transaction that did it; the step reads it when it is run again.';
