"""Retrieval quality of vector spaces on the held-out question sets, ready for the gate and the report."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.bootstrap import Interval, mean_interval, paired_difference
from heal_tasks.evaluation.gate import SetComparison, Verdict, decide
from heal_tasks.evaluation.hierarchy import hierarchical_scores
from heal_tasks.evaluation.ranking import first_of_each, ranking_metrics, top_k
from heal_tasks.nudge.questions import QuestionSet
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable
from heal_tasks.store.runs.runs import EvaluationRow

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

UNSEEN, SEEN, HUMAN = "unseen documents", "seen documents, unseen questions", "human questions"
QUESTION_SETS = (UNSEEN, SEEN, HUMAN)
TOP_K = 10
CHUNKS_RANKED = 60
"""Chunks among which the ten best documents are looked for, where a whole document is right."""
GATE_METRIC = f"ndcg@{TOP_K}"
MAX_WRITTEN_LOSS = 0.2
"""Loss in nDCG@10 on generated questions that is tolerated where human questions decide. Words differ: where human
questions gain .26 (ATT&CK) and .09 (NFCorpus) by NUDGE, generated ones lose .06 to .10."""


@dataclass(frozen=True)
class AnswerKey:
    """Questions with all the chunks that answer each."""

    rows: Int64Array  # (m,): the row of each question in the question table
    positives: list[Int64Array]  # rows of the chunk table, one array per question
    documents: Int64Array  # (m,): a document of each; the bootstrap draws documents, whose questions are correlated

    def with_vectors(self, vectors: Float32Array) -> QuestionSet:
        """The questions as NUDGE takes them, from vectors of the whole question table, shape (q, d)."""
        return QuestionSet(vectors[self.rows], self.positives)


@dataclass(frozen=True)
class System:
    """Vectors to be scored, in the order of the question table and the chunk table."""

    name: str
    generation_id: int | None  # None for vectors that are not served
    questions: Float32Array  # (q, d)
    chunks: Float32Array  # (n, d)


@dataclass(frozen=True)
class Scores:
    """Retrieval quality of one system by question set.

    ``hierarchy`` holds precision, recall and F1 of the retrieved documents' topic paths. It is never a criterion: the
    labels that judge here have also trained.
    """

    system: str
    generation_id: int | None
    values: Mapping[str, Mapping[str, NDArray[np.float64]]]  # by metric, one value per question
    documents: Mapping[str, Int64Array]  # as in AnswerKey
    hierarchy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def judged(
    questions: QuestionTable, chunks: ChunkTable, chosen: NDArray[np.bool_], *, moving: bool = False
) -> AnswerKey:
    """Chosen questions, each text once at its first row, with the rows of the chunks that answer them.

    A judgment names a document, so every chunk of it is a right answer to a human question. With ``moving`` only the
    chunk that a question is stored with counts: the one that the question moves.
    """
    rows = np.flatnonzero(chosen & (chunks.rows(questions.chunk_ids) >= 0))
    _, first, text = np.unique(questions.texts[rows], return_index=True, return_inverse=True)
    answers = chunks.rows(questions.chunk_ids[rows])
    if not moving:
        person = np.flatnonzero(questions.human[rows])
        position, siblings = chunks.of_documents(questions.document_ids[rows[person]])
        answers, text = np.concatenate([answers, siblings]), np.concatenate([text, text[person[position]]])
    answers = answers[np.argsort(text, kind="stable")]
    positives = [np.unique(part) for part in np.split(answers, np.cumsum(np.bincount(text))[:-1])] if len(rows) else []
    order = np.argsort(first)
    own = rows[first[order]]
    return AnswerKey(own, [positives[place] for place in order], questions.document_ids[own])


def people_decide(questions: QuestionTable, settings: Settings) -> bool:
    """True if enough human questions are held out for validation to train, nudge and choose by these alone.

    Generated questions are tens of times as many and easier, so human questions have no influence beside them: on
    NFCorpus a training on both ended below the base model, and neither there nor on SciFact was a theta adopted
    (bench/RESULTS.md).
    """
    asked = questions.human & questions.in_splits("seen_validation", "unseen_validation")
    return len(np.unique(questions.texts[asked])) >= settings.gate_min_questions


def held_out(questions: QuestionTable, chunks: ChunkTable) -> dict[str, AnswerKey]:
    """The held-out question sets that are not empty; human questions are a set of their own."""
    written = ~questions.human
    masks = {
        UNSEEN: written & questions.in_splits("unseen_test"),
        SEEN: written & questions.in_splits("seen_test"),
        HUMAN: questions.human & questions.in_splits("unseen_test", "seen_test"),
    }
    return {name: judged(questions, chunks, mask) for name, mask in masks.items() if mask.any()}


def score(system: System, questions: QuestionTable, chunks: ChunkTable) -> Scores:
    """Score a system on every held-out question set by exact search over all chunks.

    A generated question is answered by its chunk, a human question by a document, which is ranked by its best chunk.
    """
    values, documents, hierarchy = {}, {}, {}
    for name, chosen in held_out(questions, chunks).items():
        asked = system.questions[chosen.rows]
        if name == HUMAN:
            _, owners = np.unique(chunks.document_ids, return_inverse=True)
            found = first_of_each(top_k(asked, system.chunks, CHUNKS_RANKED)[0], owners, TOP_K)
            wanted = [owners[rows] for rows in chosen.positives]
            values[name] = ranking_metrics(np.where(found >= 0, owners[found], -1), wanted, TOP_K)
        else:
            found, _ = top_k(asked, system.chunks, TOP_K)
            values[name] = ranking_metrics(found, chosen.positives, TOP_K)
        documents[name] = chosen.documents
        paths = np.where((found >= 0)[:, :, None], chunks.paths[found], -1)
        hierarchy[name] = hierarchical_scores(paths, chunks.paths[[rows[0] for rows in chosen.positives]])
    return Scores(system.name, system.generation_id, values, documents, hierarchy)


def compare(candidate: Scores, rival: Scores, settings: Settings) -> Verdict:
    """Let the gate decide between a candidate and its rival."""
    comparisons = [
        SetComparison(name, _apart(candidate, rival, name, settings), tolerance)
        for name, tolerance in _tolerances(candidate, settings).items()
    ]
    return decide(comparisons, epsilon=settings.gate_epsilon, min_questions=settings.gate_min_questions)


def compare_for_drop(after: Scores, before: Scores, settings: Settings) -> str:
    """The sets whose quality fell beyond interval and tolerance, as a phrase for readers; empty if none did."""
    fallen = []
    for name, tolerance in _tolerances(after, settings).items():
        apart = _apart(after, before, name, settings)
        if apart.high < -(tolerance or 0.0):
            fallen.append(f"{name}: {apart.value:+.4f} nDCG@{TOP_K} [{apart.low:+.4f}, {apart.high:+.4f}]")
    return "; ".join(fallen)


def evaluation_rows(scores: Scores, rival: Scores | None, settings: Settings) -> list[EvaluationRow]:
    """Rows of ``heal.evaluation``: metrics with intervals and differences to the rival, hierarchy."""
    rows = []
    for name, metrics in scores.values.items():
        groups = scores.documents[name]
        blank = EvaluationRow(
            scores.generation_id, scores.system, name, "", 0.0, None, None, None, None, None, None, len(groups)
        )
        for metric, values in metrics.items():
            own = mean_interval(values, seed=settings.seed, groups=groups)
            row = replace(blank, metric=metric, value=own.value, low=own.low, high=own.high)
            if rival:
                apart = _apart(scores, rival, name, settings, metric)
                row = replace(row, rival=rival.system, difference=apart.value, diff_low=apart.low, diff_high=apart.high)
            rows.append(row)
        hierarchy = scores.hierarchy.get(name, {})
        rows += [replace(blank, metric=f"hierarchical_{item}", value=value) for item, value in hierarchy.items()]
    return rows


def mean_quality(scores: Scores, settings: Settings) -> float:
    """Mean nDCG@10 of the question sets that decide in the gate, or of all sets if none decides; ranks candidates."""
    tolerances, least = _tolerances(scores, settings), settings.gate_min_questions
    deciding = [name for name in tolerances if tolerances[name] is None and len(scores.documents[name]) >= least]
    return float(np.mean([scores.values[name][GATE_METRIC].mean() for name in deciding or tolerances]))


def _tolerances(scores: Scores, settings: Settings) -> dict[str, float | None]:
    """The tolerated loss of each question set; None for a set that decides: human questions, if there are enough."""
    people = len(scores.documents.get(HUMAN, ())) >= settings.gate_min_questions
    return {name: MAX_WRITTEN_LOSS if people and name != HUMAN else None for name in scores.values}


def _apart(a: Scores, b: Scores, name: str, settings: Settings, metric: str = GATE_METRIC) -> Interval:
    ours, theirs = a.values[name][metric], b.values[name][metric]
    return paired_difference(ours, theirs, seed=settings.seed, groups=a.documents[name])
