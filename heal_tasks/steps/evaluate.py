"""Step evaluate: every candidate against the live generation and the base model, and the gate's choice."""

from dataclasses import dataclass

from heal_tasks.evaluation.gate import Verdict
from heal_tasks.steps.runner import Context, Outcome, Step
from heal_tasks.steps.scoring import Scores, System, compare, evaluation_rows, mean_quality, score
from heal_tasks.steps.spaces import Float32Array, baseline, candidates, in_order, overlay
from heal_tasks.store.corpus import ChunkTable, Corpus, QuestionTable
from heal_tasks.store.generation import Generation
from heal_tasks.store.generations import GenerationRepository
from heal_tasks.store.runs import RunRepository
from heal_tasks.store.vectors import VectorRepository


@dataclass(frozen=True)
class _Entry:
    """One thing that could be promoted: a generation's rows, nudged or plain."""

    generation: Generation
    rows: str
    scores: Scores
    verdict: Verdict


def evaluate_candidates(context: Context) -> Outcome:
    """Score base model, live generation and candidates; let the gate choose.

    The rival is the live generation over today's documents, or the base model where nothing is live. The best
    candidate that passes wins. Where none passes, the rival stays; it still takes in new documents.

    Args:
        context: of the step.

    Returns:
        Refs ``winner`` (generation id, 0 to keep the live one as it is), ``winner_rows`` (nudged, plain or live)
        and ``verdict``; counts of questions and the quality of rival and winner.
    """
    corpus = Corpus(context.conn)
    chunks, questions = corpus.chunks(context.manifest.number("topic_run_id")), corpus.questions()
    made = candidates(context)
    of_base = baseline(context)
    base = _scores(context, "base model", of_base, "plain", chunks, questions, _asked(context, of_base, questions))
    live = _live_scores(context, made[0], chunks, questions)
    rival = live or base

    entries = []
    for generation in context.track(made):
        asked = _asked(context, generation, questions)
        for rows in ("nudged", "plain"):
            if rows == "nudged" and generation.nudge_variant == "none":
                continue
            if rows == "plain" and generation.kind == "reference" and live is None:
                continue  # the base model itself, which is the rival
            name = f"{generation.kind} + NUDGE" if rows == "nudged" else generation.kind
            scores = _scores(context, name, generation, rows, chunks, questions, asked)
            entries.append(_Entry(generation, rows, scores, compare(scores, rival, context.settings)))

    measured = evaluation_rows(base, None, context.settings)
    if live is not None:
        measured += evaluation_rows(live, base, context.settings)
    for entry in entries:
        measured += evaluation_rows(entry.scores, rival, context.settings)
    RunRepository(context.conn).record_evaluations(context.run_id, measured)

    passing = [entry for entry in entries if entry.verdict.promote]
    reasons = "\n".join(f"{entry.scores.system}: {' '.join(entry.verdict.reasons)}" for entry in entries)
    quality = (
        {"questions": len(questions.question_ids), "rival_ndcg": round(mean_quality(rival), 4)} if rival.values else {}
    )
    if passing:
        best = max(passing, key=lambda entry: mean_quality(entry.scores))
        winner, winner_rows = best.generation.generation_id, best.rows
        verdict = f"{best.scores.system} is promoted over {rival.system}."
        quality["winner_ndcg"] = round(mean_quality(best.scores), 4)
    else:
        winner, winner_rows, verdict = _without_a_winner(context, made[0], live is not None)
    return Outcome(
        refs={"winner": winner, "winner_rows": winner_rows, "verdict": f"{verdict}\n{reasons}"[:1500]},
        counts=dict(quality),
        note=verdict,
    )


def _without_a_winner(context: Context, reference: Generation, has_live: bool) -> tuple[int, str, str]:
    if not has_live:
        return (
            reference.generation_id, "plain",
            "No candidate beat the base model; the base model without NUDGE becomes the first generation.",
        )  # fmt: skip
    active = GenerationRepository(context.conn).active()
    assert active is not None
    pending = Corpus(context.conn).pending(active.generation_id, None)
    if pending.chunks or pending.superseded:
        return (
            reference.generation_id, "live",
            f"No candidate beat the live generation; its vectors stay, and {pending.chunks} new chunks join them.",
        )  # fmt: skip
    return 0, "live", "No candidate beat the live generation; it stays."


def _asked(context: Context, generation: Generation, questions: QuestionTable) -> Float32Array:
    return in_order(questions.question_ids, *VectorRepository(context.conn).load_questions(generation))


def _scores(
    context: Context,
    name: str,
    generation: Generation,
    rows: str,
    chunks: ChunkTable,
    questions: QuestionTable,
    asked: Float32Array,
) -> Scores:
    vectors = VectorRepository(context.conn)
    if rows == "nudged":
        served = vectors.load_served(generation)
        matrix = in_order(chunks.chunk_ids, served.chunk_ids, served.vectors)
    else:
        matrix = in_order(chunks.chunk_ids, *vectors.load_base(generation))
    return score(System(name, generation.generation_id, asked, matrix), questions, chunks)


def _live_scores(
    context: Context, reference: Generation, chunks: ChunkTable, questions: QuestionTable
) -> Scores | None:
    active = GenerationRepository(context.conn).active()
    if active is None:
        return None
    vectors = VectorRepository(context.conn)
    base = in_order(chunks.chunk_ids, *vectors.load_base(reference))
    asked = _asked(context, reference, questions)
    matrix = overlay(chunks.chunk_ids, base, vectors.load_served(active))
    return score(System("live", active.generation_id, asked, matrix), questions, chunks)


EVALUATE = Step("evaluate", evaluate_candidates, None)
