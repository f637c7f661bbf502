"""What training is shown of a chunk or a question: its text, or for a share of them its entity map's rendering.

APEX-Embedding (Aviss 2024, arXiv 2410.18105) trains on maps instead of plain text, of queries and documents alike, and
reports better retrieval of plain text. Here a share is drawn, by a hash of the seed and the id, so that it is the same
on every machine and in every run. Each chunk and each question is drawn for itself, and a chunk is shown in the same
form as right document and as negative: the form tells nothing about which document is right.
"""

from collections.abc import Iterable

from heal_tasks.core.ids import bucket
from heal_tasks.core.settings import Settings
from heal_tasks.questions.maps.rendering import query_view, render
from heal_tasks.questions.maps.replies import parse_map
from heal_tasks.steps.map_entities import maps_by
from heal_tasks.store.db import Connection

_BUCKETS = 1_000_000


class MapViews:
    """The forms in which training is shown texts; nothing is drawn at a rate of 0.

    Args:
        conn: an open connection.
        settings: rate, seed and language model.
        chunk_ids: the chunks whose texts and questions are shown.

    Attributes:
        chunks: how many chunks are shown as maps.
        questions: how many questions were shown as maps so far.
    """

    def __init__(self, conn: Connection, settings: Settings, chunk_ids: Iterable[int]) -> None:
        self._rate, self._seed = settings.map_rate, settings.seed
        # Kept as they are stored: parsed, a map takes more than twice the memory.
        self._maps = maps_by(conn, settings.llm_model).of_chunks(set(chunk_ids)) if self._rate else {}
        self._rendered = {
            chunk_id: render(parse_map(stored))
            for chunk_id, stored in self._maps.items()
            if self._drawn("document", chunk_id)
        }
        self.chunks, self.questions = len(self._rendered), 0

    def document(self, chunk_id: int, text: str) -> str:
        """A chunk as training is shown it.

        Args:
            chunk_id: the chunk.
            text: what the encoder reads of it elsewhere.

        Returns:
            Its map's rendering, or its text.
        """
        return self._rendered.get(chunk_id, text)

    def question(self, question_id: int, chunk_id: int, text: str) -> str:
        """A question as training is shown it.

        Args:
            question_id: the question.
            chunk_id: the chunk that answers it.
            text: of the question.

        Returns:
            What of the chunk's map it mentions, rendered, or its text. See ``query_view`` for why no map is asked
            for a question.
        """
        if chunk_id not in self._maps or not self._drawn("question", question_id):
            return text
        shown = query_view(parse_map(self._maps[chunk_id]), text)
        self.questions += bool(shown)
        return shown or text

    def _drawn(self, what: str, key: int) -> bool:
        return bucket(f"map-view {what} {self._seed}", key, _BUCKETS) < self._rate * _BUCKETS
