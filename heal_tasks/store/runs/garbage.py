"""What runs have left in files, by URI, and whether anything still needs it: what maintenance works through."""

from typing import LiteralString

from heal_tasks.store.db import Connection

# Generations that still have tables; what a candidate of a run under way needs is younger than the drain period.
_KEPT = """
WITH kept AS (
    SELECT g.run_id, g.model_uri FROM heal.generation g
    WHERE to_regclass('heal.' || heal.vector_table(g.generation_id, 'base')) IS NOT NULL
), kept_run AS (
    SELECT run_id FROM kept
    UNION SELECT s.run_id FROM heal.step_result s
    WHERE s.step = 'train' AND s.result -> 'refs' ->> 'model_uri' IN (SELECT model_uri FROM kept)
)
"""


class LeftoverRepository:
    """Artifacts as steps recorded them.

    Args:
        conn: an autocommit connection.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def unused_models(self, drain_hours: float) -> list[str]:
        """Models that no generation with tables was encoded with, finished longer ago than the drain period."""
        return self._uris(
            _KEPT + "SELECT DISTINCT s.result -> 'refs' ->> 'model_uri' FROM heal.step_result s WHERE s.step = 'train' "
            "AND s.finished_at <= now() - make_interval(secs => %(drain)s) "
            "AND s.result -> 'refs' ->> 'model_uri' NOT IN (SELECT model_uri FROM kept)",
            drain_hours,
        )

    def unused_training_sets(self, drain_hours: float) -> list[str]:
        """Training sets that no kept generation's model was trained on, or that are older than a deletion."""
        return self._uris(
            _KEPT + "SELECT DISTINCT s.result -> 'refs' ->> 'training_set_uri' FROM heal.step_result s "
            "LEFT JOIN heal.run r USING (run_id) WHERE s.step = 'mine' AND s.result IS NOT NULL AND ("
            "(s.finished_at <= now() - make_interval(secs => %(drain)s) "
            "AND s.run_id NOT IN (SELECT run_id FROM kept_run)) "
            "OR ((r.finished_at IS NOT NULL OR s.finished_at <= now() - make_interval(secs => %(drain)s)) "
            "AND s.finished_at < (SELECT max(deleted_at) FROM heal.document)))",
            drain_hours,
        )

    def _uris(self, query: LiteralString, drain_hours: float) -> list[str]:
        rows = self._conn.execute(query, {"drain": drain_hours * 3600})
        return sorted(row[0] for row in rows if row[0])
