-- heal.nearest has one argument more since; beside the new one the old would make every call ambiguous.
DROP FUNCTION IF EXISTS heal.nearest(vector, heal.generation, int, bigint, jsonb, bigint, boolean);
