"""Files of earlier runs that nothing needs any more: the input of maintenance."""

from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import RunRepository

# Several runs may share a file. Kept are models whose space or generations still have tables, and what a living run
# needs. Training sets older than the last deletion of a document go, too: they may quote it. So do those of a time to
# come, which a wrong clock has given them.
_UNUSED = """
WITH served AS (
    SELECT g.run_id, g.space_id FROM heal.generation g
    WHERE to_regclass('heal.' || heal.vector_table(g.generation_id)) IS NOT NULL
), kept AS (
    SELECT s.model_uri FROM heal.space s WHERE s.space_id IN (SELECT space_id FROM served)
        OR to_regclass('heal.' || heal.space_table(s.space_id)) IS NOT NULL
), done AS (
    SELECT s.*, s.finished_at <= now() - make_interval(secs => %(drain)s) AND s.run_id <> ALL (%(living)s) AS drained
    FROM heal.step_result s WHERE s.result IS NOT NULL
), trained AS (
    SELECT d.run_id, d.drained, ref.value AS model_uri FROM done d, jsonb_each_text(d.result -> 'refs') ref
    WHERE d.step = 'train' AND ref.key ~ 'model_uri$'
), kept_run AS (
    SELECT run_id FROM served UNION SELECT run_id FROM trained WHERE model_uri IN (SELECT * FROM kept)
)
SELECT 'models', model_uri FROM trained WHERE model_uri NOT IN (SELECT * FROM kept) GROUP BY 2 HAVING bool_and(drained)
UNION
SELECT 'training_sets', d.result -> 'refs' ->> 'training_set_uri' FROM done d LEFT JOIN heal.run r USING (run_id)
WHERE d.step = 'mine' GROUP BY 2 HAVING bool_and(
    d.drained AND d.run_id NOT IN (SELECT run_id FROM kept_run)
    OR (r.finished_at IS NOT NULL OR d.drained)
        AND (d.finished_at < (SELECT max(deleted_at) FROM heal.document) OR d.finished_at > now()))
ORDER BY 1, 2
"""


def unused_files(conn: Connection, drain_hours: float) -> dict[str, list[str]]:
    """URIs of trained models and training sets that no space or generation with tables needs, by kind."""
    found: dict[str, list[str]] = {"models": [], "training_sets": []}
    living = list(RunRepository(conn).living_runs())
    for kind, uri in conn.execute(_UNUSED, {"drain": drain_hours * 3600, "living": living}):
        if uri:
            found[kind].append(uri)
    return found
