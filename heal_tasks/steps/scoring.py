"""Retrieval quality of vector spaces on the held-out question sets, ready for the gate and the report."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Split
from heal_tasks.evaluation.bootstrap import mean_interval, paired_difference
from heal_tasks.evaluation.gate import SetComparison, Verdict, decide
from heal_tasks.evaluation.hierarchy import hierarchical_scores
from heal_tasks.evaluation.ranking import ranking_metrics, top_k
from heal_tasks.nudge.nudge import QuestionSet
from heal_tasks.store.corpus import ChunkTable, QuestionTable
from heal_tasks.store.runs import EvaluationRow

Float32Array = NDArray[np.float32]

QUESTION_SETS: dict[str, Split] = {
    "unseen documents": "unseen_test",
    "seen documents, unseen questions": "seen_test",
}
TOP_K = 10
GATE_METRIC = "ndcg@10"


@dataclass(frozen=True)
class System:
    """One vector space to be scored.

    Args:
        name: as people read it.
        generation_id: whose vectors; None for a mixture.
        questions: float32, shape (q, d), one row per row of the question table.
        chunks: float32, shape (n, d), one row per row of the chunk table.
    """

    name: str
    generation_id: int | None
    questions: Float32Array
    chunks: Float32Array


@dataclass(frozen=True)
class Scores:
    """How one system did, by question set.

    Args:
        system: what was scored.
        values: ranking metrics, one value per question.
        hierarchy: hierarchical precision, recall and F1 of the retrieved documents' topic paths. Never a criterion:
            the labels that judge here have also trained.
    """

    system: System
    values: dict[str, dict[str, NDArray[np.float64]]]
    hierarchy: dict[str, dict[str, float]]


def question_set(questions: QuestionTable, vectors: Float32Array, chunks: ChunkTable, *splits: Split) -> QuestionSet:
    """The questions of some splits with the rows of the chunks that answer them."""
    chosen = np.flatnonzero(questions.in_splits(*splits))
    rows = chunks.rows(questions.chunk_ids[chosen])
    return QuestionSet(vectors=vectors[chosen], positives=[np.array([row], dtype=np.int64) for row in rows])


def score(system: System, questions: QuestionTable, chunks: ChunkTable) -> Scores:
    """Score a system on every question set that has questions, by exact search over all chunks."""
    values, hierarchy = {}, {}
    for name, split in QUESTION_SETS.items():
        chosen = question_set(questions, system.questions, chunks, split)
        if not len(chosen.positives):
            continue
        found, _ = top_k(chosen.vectors, system.chunks, TOP_K)
        values[name] = ranking_metrics(found, chosen.positives, TOP_K)
        paths = np.where((found >= 0)[:, :, None], chunks.paths[found], -1)
        hierarchy[name] = hierarchical_scores(paths, chunks.paths[np.concatenate(chosen.positives)])
    return Scores(system, values, hierarchy)


def documents_of(questions: QuestionTable, name: str) -> NDArray[np.int64]:
    """Document of each question of a set: the bootstrap draws documents, since their questions hang together."""
    return questions.document_ids[questions.in_splits(QUESTION_SETS[name])]


def _differences(a: Scores, b: Scores, questions: QuestionTable, settings: Settings) -> list[SetComparison]:
    return [
        SetComparison(
            name,
            len(values[GATE_METRIC]),
            paired_difference(
                values[GATE_METRIC], b.values[name][GATE_METRIC], samples=settings.bootstrap_samples,
                seed=settings.seed, groups=documents_of(questions, name),
            ),
        )
        for name, values in a.values.items()
    ]  # fmt: skip


def compare(candidate: Scores, rival: Scores, questions: QuestionTable, settings: Settings) -> Verdict:
    """Let the gate decide between a candidate and its rival."""
    return decide(
        _differences(candidate, rival, questions, settings),
        epsilon=settings.gate_epsilon,
        min_questions=settings.gate_min_questions,
    )


def compare_for_drop(after: Scores, before: Scores, questions: QuestionTable, settings: Settings) -> str:
    """Where quality fell beyond its interval, as a phrase for people; empty where it did not."""
    return "; ".join(
        f"{item.question_set}: {item.difference.value:+.4f} nDCG@10 "
        f"[{item.difference.low:+.4f}, {item.difference.high:+.4f}]"
        for item in _differences(after, before, questions, settings)
        if item.difference.high < 0
    )


def evaluation_rows(
    scores: Scores, rival: Scores | None, questions: QuestionTable, settings: Settings
) -> list[EvaluationRow]:
    """Rows of ``heal.evaluation``: metrics with intervals and differences to the rival, hierarchy."""
    rows = []
    for name, metrics in scores.values.items():
        groups = documents_of(questions, name)
        for metric, values in metrics.items():
            own = mean_interval(values, samples=settings.bootstrap_samples, seed=settings.seed, groups=groups)
            apart = None
            if rival is not None:
                apart = paired_difference(
                    values, rival.values[name][metric], samples=settings.bootstrap_samples, seed=settings.seed,
                    groups=groups,
                )  # fmt: skip
            rows.append(
                EvaluationRow(
                    scores.system.generation_id, scores.system.name, name, metric, own.value, own.low, own.high,
                    rival.system.name if rival else None, apart.value if apart else None,
                    apart.low if apart else None, apart.high if apart else None, len(values),
                )
            )  # fmt: skip
        for measure, value in scores.hierarchy[name].items():
            rows.append(
                EvaluationRow(
                    scores.system.generation_id, scores.system.name, name, f"hierarchical_{measure}", value,
                    None, None, None, None, None, None, len(groups),
                )
            )  # fmt: skip
    return rows


def mean_quality(scores: Scores) -> float:
    """Mean nDCG@10 over the question sets: how passing candidates are ranked."""
    return float(np.mean([values[GATE_METRIC].mean() for values in scores.values.values()]))
