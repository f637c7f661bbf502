"""Step evaluate: every candidate against the live generation and the base model, and the gate's choice."""

from dataclasses import dataclass

from heal_tasks.evaluation.gate import Verdict
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.scoring import Scores, compare, evaluation_rows, mean_quality, score
from heal_tasks.steps.quality.systems import Systems
from heal_tasks.steps.vectors.spaces import candidates
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.runs.runs import RunRepository


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
        and ``verdict``; ``best`` and ``best_rows``, the winner or else the best that was refused, 0 where there is no
        candidate; counts of questions and the quality of rival and winner.
    """
    corpus = Corpus(context.conn)
    chunks, questions = corpus.chunks(context.manifest.number("topic_run_id")), corpus.questions()
    made = candidates(context)
    systems = Systems(context, questions, chunks)
    base, live = score(systems.base(), questions, chunks), None
    if systems.has_live:
        live = score(systems.live(made[0]), questions, chunks)
    rival = live or base

    entries = []
    for generation in context.track(made):
        for rows in ("nudged", "plain"):
            if rows == "nudged" and generation.nudge_variant == "none":
                continue
            if rows == "plain" and generation.kind == "reference" and live is None:
                continue  # the base model itself, which is the rival
            scores = score(systems.candidate(generation, rows), questions, chunks)
            entries.append(_Entry(generation, rows, scores, compare(scores, rival, context.settings)))

    measured = evaluation_rows(base, None, context.settings)
    if live is not None:
        measured += evaluation_rows(live, base, context.settings)
    for entry in entries:
        measured += evaluation_rows(entry.scores, rival, context.settings)
    RunRepository(context.conn).record_evaluations(context.run_id, measured)

    passing = [entry for entry in entries if entry.verdict.promote]
    reasons = "\n".join(f"{entry.scores.system}: {' '.join(entry.verdict.reasons)}" for entry in entries)

    def quality(scores: Scores) -> float:
        return mean_quality(scores, context.settings)

    counts: dict[str, float] = {}
    best = None
    if rival.values:
        counts = {"questions": len(questions.question_ids), "rival_ndcg": round(quality(rival), 4)}
        best = max(passing or entries, key=lambda entry: quality(entry.scores), default=None)
    if passing and best:
        winner, winner_rows = best.generation.generation_id, best.rows
        verdict = f"{best.scores.system} is promoted over {rival.system}."
        counts["winner_ndcg"] = round(quality(best.scores), 4)
    else:
        winner, winner_rows, verdict = _without_a_winner(context, made[0], live is not None)
    return Outcome(
        refs={
            "winner": winner,
            "winner_rows": winner_rows,
            "verdict": f"{verdict}\n{reasons}"[:1500],
            "best": best.generation.generation_id if best else 0,
            "best_rows": best.rows if best else "",
        },
        counts=counts,
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


EVALUATE = Step("evaluate", evaluate_candidates, None)
