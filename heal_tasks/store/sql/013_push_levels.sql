-- What rows that come after a contrastive plan was chosen are weighed against, by question.

DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT c.oid::regclass AS name FROM pg_class c
        WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^question_g\d+$'
    LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN push_level real, ADD COLUMN push_weight real', item.name);
    END LOOP;
END $$;
COMMENT ON COLUMN heal.generation.nudge_contrast IS
    'In how many steps rows were pushed off questions that they do not answer, when the budget was chosen; the pushes are in '
    'push_gNNNNNN and stay as they are, and by push_level and push_weight in question_gNNNNNN rows that come later are pushed. '
    '0: they were not, and there is no such table.';
