"""Rows of a space moved by questions: plan and theta chosen on validation, displacements kept by the ids of chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.devices import pick_device
from heal_tasks.core.settings import Settings
from heal_tasks.nudge.contrast import Displacements, displace
from heal_tasks.nudge.nudge import nudge
from heal_tasks.nudge.plan import PLANS, WRITTEN_PLAN_OF_MANY, WRITTEN_PLANS, NudgeRecord, Plan
from heal_tasks.nudge.questions import QuestionSet
from heal_tasks.nudge.solve import gradients
from heal_tasks.steps.quality.scoring import MOST_GENERATED, System, judged, llm_wrote, people_decide
from heal_tasks.steps.vectors.spaces import Float32Array, Int64Array
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable
from heal_tasks.store.generations.contrast_state import ContrastRepository, ContrastState
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.nudge_state import TouchedRows

CONTRAST_PAIRS = 300_000_000
"""Pairs of training question and answering chunk up to which contrastive plans are tried: their cost grows with the
pairs, about a minute on two cores here (bench/RESULTS.md)."""


@dataclass(frozen=True)
class Moved:
    """Rows of a space that questions have moved."""

    rows: Int64Array  # (c,): the rows of the chunk table that changed
    vectors: Float32Array  # (c, d): their new vectors
    record: NudgeRecord | None  # None: validation supports no move
    contrast: ContrastState  # empty without a contrastive plan
    note: str = ""  # the choice in words


def find_moves(
    settings: Settings, system: System, chunks: ChunkTable, questions: QuestionTable, plan: Plan | None = None
) -> Moved:
    """Choose plan and theta on validation questions, then find the moves by all questions that may move rows.

    Args:
        settings: variant, seed, device and thresholds.
        system: vectors of a space, not moved. A language model's questions judge the moves as they will be served,
            with the lexicon if there is one: without it they lose more (ATT&CK: .011 instead of .002).
        chunks: all live chunks, whose rows are moved.
        questions: all questions.
        plan: the plan for a language model's questions, as found in the base model's space; None chooses one. A
            trained model has learnt the questions that move rows, so held-out ones lose more where human questions
            gain as much (ATT&CK: .023 by prior 8, which is refused there).
    """
    asked = system.questions
    by_people = people_decide(questions, settings)
    by_llm = not by_people and llm_wrote(questions)
    deciding = questions.deciding_mask(by_people)

    def judging(chosen: NDArray[np.bool_]) -> QuestionSet:
        key = judged(questions, chunks, chosen)
        key = key if questions.human[key.rows].all() else key.first(MOST_GENERATED)
        return QuestionSet(system.queries(key.rows) if by_llm else asked[key.rows], key.positives)

    # The gate judges unseen documents as a set of its own, so they must not lose while others gain: on ATT&CK, with
    # questions held out by document, the best plan on average gained .11 and lost .04 on these: all was refused.
    unseen = judging(questions.in_splits("unseen_validation") & ~questions.human)
    train = judged(questions, chunks, deciding & questions.in_splits("train"), moving=True).with_vectors(asked)
    movers = judged(questions, chunks, deciding & questions.moves, moving=True)
    result = nudge(
        system.chunks,
        train,
        judging(deciding & questions.in_splits("seen_validation", "unseen_validation")),
        variant=settings.nudge_variant,
        plans=(plan,) if by_llm and plan else _plans(train, WRITTEN_PLANS if by_llm else PLANS),
        refit=movers.with_vectors(asked),
        min_gain=settings.gate_epsilon,
        max_loss=(np.inf if plan else settings.gate_epsilon) if by_llm else None,
        unasked=unseen if len(unseen.positives) >= settings.gate_min_questions else None,
        # Human questions cost generated ones a little: with 0, SciFact's theta would be .06 instead of .57.
        max_unasked_loss=settings.gate_epsilon if by_people else 0.0,
        seed=settings.seed,
        device=pick_device(settings.device),
    )
    choice = result.choice
    if choice is None or not result.adopted or not len(result.rows):
        nothing = np.empty(0, dtype=np.int64)
        empty = ContrastState.empty(system.chunks.shape[1])
        missing = "training" if not len(train.positives) else "" if choice else "validation"
        why = f"there are no {missing} questions" if missing else "validation gains too little"
        if choice and by_llm and not missing:
            why = f"held-out questions lose {-choice.gain:.3f} by the most cautious plan"
        return Moved(nothing, system.chunks[nothing], None, empty, f"not moved: {why}")
    plan, before = result.plan, float(choice.before.mean())
    how = f"{', centred' if plan.centred else ''}{', contrastive' if plan.contrast_steps else ''}"
    how += ", by human questions alone" if by_people else ""
    limit = "" if by_llm else f"theta {result.theta:.2f}, "
    note = (
        f"{len(result.rows)} of {len(system.chunks)} rows moved with {limit}prior {plan.prior:g}{how}; "
        f"held-out questions go from {before:.3f} to {before + choice.gain:.3f}"
    )
    contrast = by_id(result.displacements, chunks, questions.question_ids[movers.rows])
    return Moved(result.rows, result.vectors, result.record(by_people=by_people), contrast, note)


def moved_copy(vectors: Float32Array, moved: Moved | None) -> Float32Array:
    """Vectors, float32, shape (n, d), with moved rows in place; the same array where no row moved."""
    if moved is None or not len(moved.rows):
        return vectors
    copy = vectors.copy()
    copy[moved.rows] = moved.vectors
    return copy


def with_late(conn: Connection, active: Generation, rows: TouchedRows, record: NudgeRecord) -> Displacements:
    """Displacements of touched rows by chunk id; rows that came after the record was chosen get theirs, and keep it."""
    repository, plan = ContrastRepository(conn), record.plan
    known = Displacements(*repository.of_chunks(active, rows.chunk_ids))
    asks = np.flatnonzero(~np.isin(rows.chunk_ids[rows.answers], known.rows))  # questions of rows without one
    if not plan.contrast_steps or not len(asks):
        return known
    pairs = np.column_stack([asks, rows.answers[asks]])
    places, G = gradients(rows.questions, pairs, plan.weights(rows.shares[asks]), centre=record.centre)
    late = rows.chunk_ids[places]
    pushing = repository.pushing(active, late)
    found, _ = displace(
        pushing.vectors, rows.base[places], pushing.pairs, pushing.weights, G, prior=plan.prior,
        steps=plan.contrast_steps, log_sum_exp=pushing.levels,
    )  # fmt: skip
    repository.add(active, late, found)
    return known.and_of(late, found)


def by_id(displacements: Displacements, chunks: ChunkTable, question_ids: Int64Array) -> ContrastState:
    """Displacements, and levels of the questions that moved rows, by ids."""
    levels, chunk_ids = displacements.levels, chunks.chunk_ids[displacements.rows]
    asked = question_ids[levels.questions]
    return ContrastState(chunk_ids, displacements.vectors, asked, levels.log_sum_exp, levels.weights)


def _plans(train: QuestionSet, plans: Sequence[Plan]) -> Sequence[Plan]:
    pairs = len(train.positives) * len(np.unique(np.concatenate([np.empty(0, np.int64), *train.positives])))
    return [plan for plan in plans if not plan.contrast_steps or pairs <= CONTRAST_PAIRS] or [WRITTEN_PLAN_OF_MANY]
