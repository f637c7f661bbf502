-- Functions whose rows or arguments have changed cannot be replaced: they are dropped here, and the other files make
-- them again.
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT p.oid::regprocedure AS routine FROM pg_proc p
        WHERE p.pronamespace = 'heal'::regnamespace AND p.proname IN (
            'search', 'search_many', 'similar', 'find', 'hybrid_search', 'nearest', 'matching', 'ranked', 'shown_document')
    LOOP
        EXECUTE format('DROP FUNCTION %s', item.routine);
    END LOOP;
END $$;
