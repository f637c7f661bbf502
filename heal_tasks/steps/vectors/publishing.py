"""A generation made visible: its tables written, indexed and measured, then one transaction switches to it."""

import numpy as np

from heal_tasks.core.errors import StepError
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.quality.probes import choose_probes
from heal_tasks.steps.vectors.bridges import write_bridges
from heal_tasks.steps.vectors.indexing import Indexed, index_served
from heal_tasks.steps.vectors.moves import moved_copy
from heal_tasks.steps.vectors.spaces import overlay, served
from heal_tasks.steps.vectors.systems import LIVE, Systems
from heal_tasks.store.documents.chunks import purge_superseded
from heal_tasks.store.generations.contrast_state import ContrastRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.spaces import SpaceRepository


def publish_generation(
    context: Context, generation: Generation, *, keep_rows: bool = False, without_questions: bool = False
) -> tuple[int, Indexed, str]:
    """Write a generation, index it, measure it and switch to it; one whose recall is too low fails and is dropped.

    Returns:
        The number of rows, the index, and what ``write_bridges`` says; the generation is live if ``Indexed.fault`` is
        empty.

    Raises:
        StepError: documents were deleted since the rows were written.
    """
    generations, number = GenerationRepository(context.conn), generation.generation_id
    rows = write_generation(context, generation, keep_rows=keep_rows, without_questions=without_questions)
    indexed, bridges = index_served(context, generation), ""
    if indexed.fault:
        generations.set_state(number, "failed", note=f"Not published: {indexed.fault}.")
        generations.drop_tables(number)
    elif orphans := ServedRepository(context.conn).health(generation)["orphans"]:
        # Deletions since the rows were written reach them before any reader can.
        raise StepError(f"generation {number} has {orphans} rows of deleted chunks; run the realign route again")
    else:
        bridges = write_bridges(context, generation)
        generations.set_state(number, "ready", indexed.note or None)
        generations.activate(number)
        purge_superseded(context.conn)
    return rows, indexed, bridges


def write_generation(
    context: Context, generation: Generation, *, keep_rows: bool = False, without_questions: bool = False
) -> int:
    """Write the lexicon, served rows, contrast state and probes of a generation, and return the number of rows.

    With ``keep_rows`` it takes over the vectors of the live generation; new chunks have those of the space.
    ``without_questions`` is for a space that has no vectors of questions yet.
    """
    state = NudgeState(context.conn, generation)
    touched = state.touched()  # read before the corpus: later changes stay noted for the next nudge
    systems = Systems(context.conn, context.settings, generation.topic_run_id)
    if without_questions:
        systems.questions = systems.questions.none()
    repository, contrast = ServedRepository(context.conn), ContrastRepository(context.conn)
    GenerationRepository(context.conn).create_tables(generation)
    plain = systems.plain(LIVE, SpaceRepository(context.conn).get(generation.space_id))
    waiting = np.empty(0, dtype=np.int64)
    if keep_rows:
        assert systems.active is not None
        live = repository.load_served(systems.active)
        vectors = overlay(systems.chunks.chunk_ids, plain.chunks.copy(), live)
        contrast.write(generation, contrast.load(systems.active))
        # New ones have their base vectors, and these have not been moved by the questions that came since: the next
        # nudge moves both.
        new = np.setdiff1d(systems.chunks.chunk_ids, live.chunk_ids)
        waiting = np.union1d(new, NudgeState(context.conn, systems.active).touched())
    else:
        moved = systems.moves_of(generation, plain)
        vectors = moved_copy(plain.chunks, moved)
        if moved:
            contrast.write(generation, moved.contrast)
    systems.write_lexicon(generation, plain, vectors)
    rows = repository.write_served(generation, served(systems.chunks, vectors))
    state.settle(touched)
    state.touch(waiting)
    state.write_probes(choose_probes(systems.questions, plain.questions, systems.chunks, vectors))
    return rows
