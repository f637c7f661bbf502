-- Plans that push rows off questions that they do not answer, and weigh questions by how many answers they have.

ALTER TABLE heal.generation
    ADD COLUMN nudge_contrast integer NOT NULL DEFAULT 0 CHECK (nudge_contrast >= 0),
    ADD COLUMN nudge_many double precision NOT NULL DEFAULT 0 CHECK (nudge_many BETWEEN 0 AND 1);
COMMENT ON COLUMN heal.generation.nudge_contrast IS
    'In how many steps rows were pushed off questions that they do not answer, when the budget was chosen; the pushes are in '
    'push_gNNNNNN and stay as they are. 0: they were not, and there is no such table.';
COMMENT ON COLUMN heal.generation.nudge_many IS
    'All answers of a question together are pulled with the number of its answers to this power; 0: by one.';
