"""The systems that a run compares: the base model, the live generation, and the candidates."""

from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.quality.scoring import System
from heal_tasks.steps.vectors.moving import Moved, apply_record, record_of
from heal_tasks.steps.vectors.spaces import BASE_MODEL, Float32Array, base_space, in_order, overlay
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.space import Space
from heal_tasks.store.spaces.spaces import SpaceRepository

LIVE = "live generation"


class Systems:
    """Loads the vectors of systems over the same questions and chunks, each when it is asked for.

    Nothing is kept: at 1,000,000 chunks of 384 dimensions one matrix takes 1.5 GB.

    Args:
        context: of the step.
        chunks: all live chunks.
        questions: all questions of live chunks.
    """

    def __init__(self, context: Context, chunks: ChunkTable, questions: QuestionTable) -> None:
        self._context, self.chunks, self.questions = context, chunks, questions
        self._spaces = SpaceRepository(context.conn)
        self.active = GenerationRepository(context.conn).active()

    def base(self) -> System:
        """The base model's vectors, not moved."""
        return self.plain(BASE_MODEL, base_space(self._context))

    def live(self) -> System:
        """The active generation over today's documents: its served vectors, base vectors for new chunks."""
        assert self.active is not None
        plain = self.plain(LIVE, self._spaces.get(self.active.space_id))
        rows = ServedRepository(self._context.conn).load_served(self.active)
        return System(
            LIVE, self.active.generation_id, plain.questions, overlay(self.chunks.chunk_ids, plain.chunks, rows)
        )

    def plain(self, name: str, space: Space) -> System:
        """The vectors of a space, not moved."""
        asked = in_order(self.questions.question_ids, *self._spaces.load_questions(space))
        return System(name, None, asked, in_order(self.chunks.chunk_ids, *self._spaces.load_chunks(space)))

    def generation(self, name: str, generation: Generation) -> tuple[System, Moved | None]:
        """The vectors that a chosen generation is to serve, computed from its space and its nudge record.

        Args:
            name: for people.
            generation: not served yet.

        Returns:
            The system, and the moved rows where it has a record.
        """
        system, record = self.plain(name, self._spaces.get(generation.space_id)), record_of(generation)
        moved = None
        if record:
            moved = apply_record(
                record, system.chunks, system.questions, self.chunks, self.questions,
                device=self._context.settings.device,
            )  # fmt: skip
            move_in_place(system.chunks, moved)
        return System(name, generation.generation_id, system.questions, system.chunks), moved


def move_in_place(base: Float32Array, moved: Moved) -> None:
    """Replace the base vectors of moved rows: a copy of all of them would double the memory."""
    base[moved.rows] = moved.vectors
