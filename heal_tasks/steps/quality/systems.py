"""The vector spaces that a run compares: base model, live generation, and what could be promoted."""

from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.quality.scoring import System
from heal_tasks.steps.vectors.spaces import Float32Array, baseline, in_order, overlay
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.vectors import VectorRepository

BASE, LIVE = "base model", "live"


class Systems:
    """Loads vector spaces over the same questions and chunks, each when it is asked for.

    Args:
        context: of the step.
        questions: all questions of live chunks.
        chunks: all live chunks.
    """

    def __init__(self, context: Context, questions: QuestionTable, chunks: ChunkTable) -> None:
        self._context, self._questions, self._chunks = context, questions, chunks
        self._vectors, self._asked_of = VectorRepository(context.conn), dict[int, Float32Array]()
        self._active = GenerationRepository(context.conn).active()

    @property
    def has_live(self) -> bool:
        """Whether a generation is served."""
        return self._active is not None

    def base(self) -> System:
        """The base model as it is."""
        found = baseline(self._context)
        return System(BASE, found.generation_id, self._asked(found), self._plain(found))

    def live(self, reference: Generation) -> System:
        """What is served over today's documents, where a generation is.

        Args:
            reference: this run's generation of the live model, which has the vectors of new chunks.
        """
        assert self._active is not None
        matrix = overlay(self._chunks.chunk_ids, self._plain(reference), self._vectors.load_served(self._active))
        return System(LIVE, self._active.generation_id, self._asked(reference), matrix)

    def candidate(self, generation: Generation, rows: str) -> System:
        """What could be promoted.

        Args:
            generation: one of this run's.
            rows: nudged or plain.
        """
        asked, kind = self._asked(generation), generation.kind
        if rows == "plain":
            return System(kind, generation.generation_id, asked, self._plain(generation))
        served = self._vectors.load_served(generation)
        matrix = in_order(self._chunks.chunk_ids, served.chunk_ids, served.vectors)
        return System(f"{kind} + NUDGE", generation.generation_id, asked, matrix)

    def _asked(self, generation: Generation) -> Float32Array:
        """Its question vectors, loaded once: a candidate is asked for nudged and plain."""
        key = generation.generation_id
        if key not in self._asked_of:
            self._asked_of[key] = in_order(self._questions.question_ids, *self._vectors.load_questions(generation))
        return self._asked_of[key]

    def _plain(self, generation: Generation) -> Float32Array:
        return in_order(self._chunks.chunk_ids, *self._vectors.load_base(generation))
