"""The systems that a run compares: the base model, the live generation, and the candidates."""

from dataclasses import replace

from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.quality.scoring import System
from heal_tasks.steps.vectors.moving import Moved, apply_record, record_of
from heal_tasks.steps.vectors.spaces import BASE_MODEL, base_space, in_order, overlay
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

LIVE = "live generation"


class Systems:
    """Loads the vectors of systems over the same questions and chunks, each when it is asked for.

    Nothing is kept: at 1,000,000 chunks of 384 dimensions one matrix takes 1.5 GB.
    """

    def __init__(self, context: Context, chunks: ChunkTable, questions: QuestionTable) -> None:
        self._context, self.chunks, self.questions = context, chunks, questions
        self._spaces = SpaceRepository(context.conn)
        self.active = GenerationRepository(context.conn).active()

    def base(self) -> System:
        """The base model's vectors, not moved."""
        return self.plain(BASE_MODEL, base_space(self._context))

    def live(self) -> System:
        """The live generation over today's documents: its served vectors, base vectors for new chunks."""
        assert self.active is not None
        plain = self.plain(LIVE, self._spaces.get(self.active.space_id))
        rows = ServedRepository(self._context.conn).load_served(self.active)
        chunks = overlay(self.chunks.chunk_ids, plain.chunks, rows)
        return replace(plain, generation_id=self.active.generation_id, chunks=chunks)

    def plain(self, name: str, space: Space) -> System:
        """The vectors of a space, not moved."""
        asked = in_order(self.questions.question_ids, *self._spaces.load_questions(space))
        return System(name, None, asked, in_order(self.chunks.chunk_ids, *self._spaces.load_chunks(space)))

    def generation(self, name: str, generation: Generation) -> tuple[System, Moved | None]:
        """The vectors that a chosen generation is to serve, from its space and its nudge record, and the moved rows."""
        plain, record = self.plain(name, self._spaces.get(generation.space_id)), record_of(generation)
        moved = None
        if record:
            moved = apply_record(record, plain, self.chunks, self.questions, device=self._context.settings.device)
            plain.chunks[moved.rows] = moved.vectors  # in place: a copy would double the memory
        return replace(plain, generation_id=generation.generation_id), moved


def make_generation(context: Context, space: Space, topic_run_id: int | None, record: NudgeRecord | None) -> Generation:
    """Make a generation in state ``building``; vectors of NUDGE-M are not of unit length, so need the inner product."""
    return GenerationRepository(context.conn).create(
        run_id=context.run_id, space=space, topic_run_id=topic_run_id, nudge=record.to_json() if record else None,
        metric="inner_product" if record and record.variant == "M" else "cosine",
    )  # fmt: skip
