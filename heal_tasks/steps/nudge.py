"""Step nudge: the served vectors of this run's candidates, moved by the questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.devices import pick_device
from heal_tasks.core.types import Split
from heal_tasks.nudge.nudge import PLAIN, NudgeResult, Plan, nudge
from heal_tasks.nudge.questions import QuestionSet
from heal_tasks.nudge.solve import Variant
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.scoring import judged, people_decide, question_set
from heal_tasks.steps.vectors.contrast import kept, to_keep
from heal_tasks.steps.vectors.spaces import candidates, in_order, served
from heal_tasks.store.documents.corpus import ChunkTable, Corpus, QuestionTable
from heal_tasks.store.generations.contrast_state import KeptPushes, PushRepository
from heal_tasks.store.generations.generation import NO_BUDGET, Generation
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.generations.vectors import VectorRepository

Float32Array = NDArray[np.float32]

PLANS = (
    PLAIN, Plan(prior=0.5), Plan(prior=1.0), Plan(prior=2.0), Plan(centred=True), Plan(centred=True, prior=1.0),
    Plan(prior=2.0, many=0.5), *(Plan(prior=prior, contrast=5, many=0.5) for prior in (1.0, 2.0, 4.0, 8.0)),
)  # fmt: skip
"""What validation chooses among, beside the budget; where a document has dozens of questions, by a larger prior."""
MOVING: tuple[Split, ...] = ("train", "seen_validation", "unseen_validation")
"""Questions that move rows: those of validation too, once they have chosen; ``heal.moves_rows`` says the same."""


@dataclass(frozen=True)
class Moved:
    """One generation, nudged.

    Args:
        result: what NUDGE found.
        base: float32, shape (n, d): the chunks as the encoder put them.
        vectors: float32, shape (n, d): as they are to be served.
        questions: float32, shape (q, d).
        by_people: whether people's questions alone have moved them.
        pushes: what the generation keeps with the budget.
    """

    result: NudgeResult
    base: Float32Array
    vectors: Float32Array
    questions: Float32Array
    by_people: bool
    pushes: KeptPushes


def move(
    generation: Generation,
    context: Context,
    chunks: ChunkTable,
    questions: QuestionTable,
    *,
    variant: Variant,
    theta: float | None,
) -> Moved:
    """NUDGE one generation's base vectors.

    Args:
        generation: whose base and question vectors.
        context: of the step.
        chunks: all live chunks.
        questions: all questions of live chunks.
        variant: N or M.
        theta: the budget; None lets validation choose it.

    Returns:
        The result with all vectors.
    """
    vectors = VectorRepository(context.conn)
    base = in_order(chunks.chunk_ids, *vectors.load_base(generation))
    asked = in_order(questions.question_ids, *vectors.load_questions(generation))
    centre = None if theta is None else centre_of(generation)
    settings = context.settings
    by_people = people_decide(questions, settings) if theta is None else generation.nudge_by_people
    bound = settings.nudge_max_unasked_loss if settings.nudge_max_unasked_loss < 1 else None
    unasked = None
    # What the gate will judge on its own must not lose while others gain: on ATT&CK, with questions held out by
    # document, the best plan on average gained .11 and lost .04 on these, so the gate would have refused all of it.
    unseen = judged(questions, chunks, questions.in_splits("unseen_validation") & ~questions.human)
    if bound is None and len(unseen.rows) >= settings.gate_min_questions:
        # People's questions cost written ones a little; at 0 SciFact's budget would be .06 instead of .57.
        bound = settings.gate_epsilon if by_people else 0.0
        unasked = QuestionSet(asked[unseen.rows], unseen.positives)
    count = questions.that_count(by_people)
    train = question_set(questions, asked, chunks, count & questions.in_splits("train"), moving=True)
    moving = judged(questions, chunks, count & questions.in_splits(*MOVING), moving=True)
    before = None if theta is None else PushRepository(context.conn).load(generation)
    result = nudge(
        base,
        train,
        question_set(questions, asked, chunks, count & questions.in_splits("seen_validation", "unseen_validation")),
        variant=variant,
        theta=theta,
        plans=_offered(train, context) if theta is None else (plan_of(generation),),
        centre=centre,
        pushes=None if before is None else kept(before, chunks),
        refit=QuestionSet(asked[moving.rows], moving.positives),
        min_gain=settings.gate_epsilon,
        max_unasked_loss=bound,
        unasked=unasked,
        seed=settings.seed,
        device=pick_device(settings.device),
    )
    moved = base.copy()
    moved[result.rows] = result.vectors
    pushes = before or to_keep(result.pushes, chunks.chunk_ids, questions.question_ids[moving.rows])
    return Moved(result, base, moved, asked, by_people, pushes)


def budget_of(moved: Moved) -> dict[str, Any]:
    """What a generation keeps of an adopted result, to move further rows in the same way."""
    result = moved.result
    return {
        "nudge_variant": result.variant, "nudge_theta": result.theta, "nudge_prior": result.plan.prior,
        "nudge_centre": result.centre if result.plan.centred else None, "nudge_contrast": result.plan.contrast,
        "nudge_many": result.plan.many, "nudge_by_people": moved.by_people,
    }  # fmt: skip


def plan_of(generation: Generation) -> Plan:
    """The plan of a generation's budget."""
    return Plan(
        generation.nudge_centre is not None, generation.nudge_prior, generation.nudge_contrast, generation.nudge_many
    )


def centre_of(generation: Generation) -> Float32Array | None:
    """What a generation's plan takes off every question, float32, shape (d,); None for nothing."""
    centre = generation.nudge_centre
    return None if centre is None else centre.to_numpy().astype(np.float32)


def _offered(train: QuestionSet, context: Context) -> Sequence[Plan]:
    """The plans, without the contrastive ones where these would have to look at too many pairs."""
    pairs = len(train.positives) * len(np.unique(np.concatenate([np.empty(0, np.int64), *train.positives])))
    return [plan for plan in PLANS if not plan.contrast or pairs <= context.settings.nudge_contrast_pairs]


def nudge_candidates(context: Context) -> Outcome:
    """Fill the served vectors of every candidate, moved where validation shows a gain.

    Args:
        context: of the step.

    Returns:
        Counts of moved rows and the budget by candidate.
    """
    corpus, generations = Corpus(context.conn), GenerationRepository(context.conn)
    made = candidates(context)
    touched = {item.generation_id: NudgeState(context.conn, item).touched() for item in made}
    chunks, questions = corpus.chunks(context.manifest.number("topic_run_id")), corpus.questions()
    counts: dict[str, int | float] = {}
    notes = []
    for generation in context.track(made):
        moved = move(generation, context, chunks, questions, variant=context.settings.nudge_variant, theta=None)
        result = moved.result
        adopted = result.adopted and len(result.rows) > 0
        generation = generations.set_fields(
            generation.generation_id,
            topic_run_id=context.manifest.number("topic_run_id"),
            metric="inner_product" if adopted and result.variant == "M" else "cosine",
            **(budget_of(moved) if adopted else NO_BUDGET),
        )
        if generation.nudge_contrast:
            PushRepository(context.conn).write(generation, moved.pushes)
        VectorRepository(context.conn).write_served(generation, served(chunks, moved.vectors))
        # Read before the corpus was: what is touched since then stays noted.
        NudgeState(context.conn, generation).settle(touched[generation.generation_id])
        counts[f"moved_{generation.kind}"] = len(result.rows)
        counts[f"theta_{generation.kind}"] = round(result.theta, 4)
        counts[f"prior_{generation.kind}"] = result.plan.prior
        before, plan = result.validation_before or 0.0, result.plan
        how = f"{', centred' if plan.centred else ''}{', contrastive' if plan.contrast else ''}"
        how += ", by people's questions alone" if moved.by_people else ""
        notes.append(
            f"{generation.kind}: {len(result.rows)} of {len(moved.vectors)} rows by theta {result.theta:.2f}, prior "
            f"{plan.prior:g}{how}; questions kept out of the choice go from "
            f"{before:.3f} to {before + (result.gain or 0.0):.3f}"
            if adopted
            else f"{generation.kind}: not moved, validation gains too little"
        )
    return Outcome(counts=counts, note="; ".join(notes))


NUDGE = Step("nudge", nudge_candidates, None)
