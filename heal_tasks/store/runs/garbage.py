"""Files of earlier runs that nothing needs any more, by URI: the input of maintenance."""

from typing import LiteralString

from heal_tasks.store.db import Connection

# Models whose space or generations still have tables. What a run under way needs is younger than the drain period.
_KEPT = """
WITH served AS (
    SELECT g.run_id, g.space_id FROM heal.generation g
    WHERE to_regclass('heal.' || heal.vector_table(g.generation_id)) IS NOT NULL
), kept AS (
    SELECT s.model_uri FROM heal.space s WHERE s.space_id IN (SELECT space_id FROM served)
        OR to_regclass('heal.' || heal.space_table(s.space_id)) IS NOT NULL
), kept_run AS (
    SELECT run_id FROM served
    UNION SELECT s.run_id FROM heal.step_result s
    WHERE s.step = 'train' AND s.result -> 'refs' ->> 'model_uri' IN (SELECT model_uri FROM kept)
)
"""


def unused_models(conn: Connection, drain_hours: float) -> list[str]:
    """Trained models that no space or generation with tables needs, finished longer ago than the drain period."""
    return _uris(
        conn,
        _KEPT + "SELECT DISTINCT s.result -> 'refs' ->> 'model_uri' FROM heal.step_result s WHERE s.step = 'train' "
        "AND s.finished_at <= now() - make_interval(secs => %(drain)s) "
        "AND s.result -> 'refs' ->> 'model_uri' NOT IN (SELECT model_uri FROM kept)",
        drain_hours,
    )


def unused_training_sets(conn: Connection, drain_hours: float) -> list[str]:
    """Training sets of models that are not kept, and all that are older than the last deletion of a document."""
    return _uris(
        conn,
        _KEPT + "SELECT DISTINCT s.result -> 'refs' ->> 'training_set_uri' FROM heal.step_result s "
        "LEFT JOIN heal.run r USING (run_id) WHERE s.step = 'mine' AND s.result IS NOT NULL AND ("
        "(s.finished_at <= now() - make_interval(secs => %(drain)s) AND s.run_id NOT IN (SELECT run_id FROM kept_run)) "
        "OR ((r.finished_at IS NOT NULL OR s.finished_at <= now() - make_interval(secs => %(drain)s)) "
        "AND s.finished_at < (SELECT max(deleted_at) FROM heal.document)))",
        drain_hours,
    )


def _uris(conn: Connection, query: LiteralString, drain_hours: float) -> list[str]:
    return sorted(row[0] for row in conn.execute(query, {"drain": drain_hours * 3600}) if row[0])
