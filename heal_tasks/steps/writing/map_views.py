"""Replaces a share of the texts in a training set by renderings of their entity maps.

APEX-Embedding (Aviss 2024, arXiv 2410.18105) trains on maps instead of plain text, of queries and documents alike, and
reports better retrieval of plain text. Here a hash of seed and id draws the share, so it is the same on every machine
and in every run. Chunks and questions are drawn separately, and a chunk has the same form as right document and as
negative, so that the form does not tell which document is right.
"""

from collections.abc import Iterable

from heal_tasks.core.ids import bucket
from heal_tasks.core.settings import Settings
from heal_tasks.questions.maps.map_prompt import parse_map
from heal_tasks.questions.maps.rendering import query_view, render
from heal_tasks.steps.map_entities import maps_by
from heal_tasks.store.db import Connection

_BUCKETS = 1_000_000


class MapViews:
    """The training texts of chunks and of the questions about them, and the numbers of those replaced by maps."""

    def __init__(self, conn: Connection, settings: Settings, chunk_ids: Iterable[int]) -> None:
        self._rate, self._seed = settings.map_rate, settings.seed
        # As JSON text: a parsed map takes more than twice the memory.
        self._maps = maps_by(conn, settings.llm_model).of_chunks(set(chunk_ids)) if self._rate else {}
        self._rendered = {
            chunk_id: render(parse_map(stored))
            for chunk_id, stored in self._maps.items()
            if self._drawn("document", chunk_id)
        }
        self.chunks, self.questions = len(self._rendered), 0

    def document(self, chunk_id: int, text: str) -> str:
        """The rendering of a chunk's map, or its text."""
        return self._rendered.get(chunk_id, text)

    def question(self, question_id: int, chunk_id: int, text: str) -> str:
        """The rendering of what a question mentions of its chunk's map (see ``query_view``), or its text."""
        if chunk_id not in self._maps or not self._drawn("question", question_id):
            return text
        shown = query_view(parse_map(self._maps[chunk_id]), text)
        self.questions += bool(shown)
        return shown or text

    def _drawn(self, what: str, key: int) -> bool:
        return bucket(f"map-view {what} {self._seed}", key, _BUCKETS) < self._rate * _BUCKETS
