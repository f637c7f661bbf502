"""Retrieval quality of vector spaces on the held-out question sets, ready for the gate and the report."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.bootstrap import Interval, mean_interval, paired_difference
from heal_tasks.evaluation.calibration import Curve, relevance_curve
from heal_tasks.evaluation.gate import SetComparison, Verdict, decide
from heal_tasks.evaluation.hierarchy import hierarchical_scores
from heal_tasks.evaluation.ranking import first_of_each, ranking_metrics, top_k
from heal_tasks.lexicon.search import LexicalSearch
from heal_tasks.nudge.questions import QuestionSet
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable
from heal_tasks.store.runs.runs import EvaluationRow

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

UNSEEN, SEEN, HUMAN = "unseen documents", "seen documents, unseen questions", "human questions"
QUESTION_SETS = (UNSEEN, SEEN, HUMAN)
BY_ENCODER, BY_TEXT = "", ", by text"
"""The query paths, as added to the name of a question set: the encoder's vector with the lexicon's; the text alone, by
lexicon and words, as ``heal.find`` searches."""
TOP_K = 10
CHUNKS_RANKED = 60
"""Chunks among which the ten best documents are looked for, where a whole document is right."""
CHUNKS_WITH_WORDS = 20
"""Nearest chunks that ``heal.find`` ranks by their words as well."""
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

    def first(self, most: int) -> "AnswerKey":
        """At most so many of the questions, spread evenly over all."""
        step = -(-len(self.rows) // most) or 1
        return AnswerKey(self.rows[::step], self.positives[::step], self.documents[::step])


@dataclass(frozen=True)
class System:
    """Vectors to be scored, in the order of the question table and the chunk table."""

    name: str
    generation_id: int | None  # None for vectors that are not served
    questions: Float32Array  # (q, d)
    chunks: Float32Array  # (n, d)
    lexical: LexicalSearch | None = None  # None: queries are the encoder's vectors alone, and there is no path by text

    def queries(self, rows: Int64Array) -> Float32Array:
        """Vectors of some questions as they are searched with: the encoder's, and the lexicon's if there is one."""
        asked = self.questions[rows]
        return self.lexical.with_encoder(asked, rows) if self.lexical else asked


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
    relevance: Mapping[str, Curve] = field(default_factory=dict)  # by query path, from the sets that decide


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
    """Score a system on every held-out question set and query path, by exact search over all chunks.

    A generated question is answered by its chunk, a human question by a document, which is ranked by its best chunk.
    """
    values, documents, hierarchy = {}, {}, {}
    for name, key in held_out(questions, chunks).items():
        for path in (BY_ENCODER, BY_TEXT) if system.lexical else (BY_ENCODER,):
            found, values[name + path] = rank(system, key, chunks, path, documents=name == HUMAN)
            documents[name + path] = key.documents
            paths = np.where((found >= 0)[:, :, None], chunks.paths[found], -1)
            hierarchy[name + path] = hierarchical_scores(paths, chunks.paths[[rows[0] for rows in key.positives]])
    return Scores(system.name, system.generation_id, values, documents, hierarchy)


def quality(system: System, key: AnswerKey, chunks: ChunkTable, path: str = BY_ENCODER) -> NDArray[np.float64]:
    """nDCG@10 of a system on each of some questions, over documents; float64, shape (m,)."""
    return rank(system, key, chunks, path, documents=True)[1][GATE_METRIC]


def relevance(system: System, key: AnswerKey) -> dict[str, Curve]:
    """Curves of the relevance of the ten best rows, by query path, both with words, from questions held out."""
    paths = {"encoder": BY_ENCODER, "text": BY_TEXT}
    return {name: relevance_curve(*scored_rows(system, key, path)) for name, path in paths.items()}


def scored_rows(system: System, key: AnswerKey, path: str) -> tuple[Float32Array, NDArray[np.bool_]]:
    """Scores of the ten best rows of all questions, with words, shape (m,), and which of them answer."""
    found, scores = _find(system, key.rows, path, CHUNKS_WITH_WORDS, words=True)
    found, scores = found[:, :TOP_K], scores[:, :TOP_K]
    right = np.array([np.isin(*pair) for pair in zip(found, key.positives, strict=True)], bool).reshape(found.shape)
    return scores[found >= 0], right[found >= 0]


def rank(
    system: System, key: AnswerKey, chunks: ChunkTable, path: str, *, documents: bool, words: bool | None = None
) -> tuple[Int64Array, dict[str, NDArray[np.float64]]]:
    """Ranked chunks of some questions, int64, shape (m, 10), and metrics, each float64, shape (m,).

    With ``documents`` a document is the right answer, ranked by its best chunk; otherwise a chunk. ``words`` says if
    shared words count beside vectors; by default on the path by text alone.
    """
    depth = CHUNKS_RANKED if documents else CHUNKS_WITH_WORDS if path == BY_TEXT else TOP_K
    found, _ = _find(system, key.rows, path, depth, words=path == BY_TEXT if words is None else words)
    if not documents:
        return found[:, :TOP_K], ranking_metrics(found, key.positives, TOP_K)
    _, owners = np.unique(chunks.document_ids, return_inverse=True)
    best = first_of_each(found, owners, TOP_K)
    wanted = [owners[rows] for rows in key.positives]
    return best, ranking_metrics(np.where(best >= 0, owners[best], -1), wanted, TOP_K)


def _find(system: System, rows: Int64Array, path: str, depth: int, *, words: bool) -> tuple[Int64Array, Float32Array]:
    """The best chunks for some questions, int64, shape (m, depth), and their scores, float32."""
    search = system.lexical
    asked = search.vectors[rows] if search and path == BY_TEXT else system.queries(rows)
    found, scores = top_k(asked, system.chunks, depth)
    return search.add_words(found, asked, rows, system.chunks) if search and words else (found, scores)


def compare(candidate: Scores, rival: Scores, settings: Settings) -> Verdict:
    """Let the gate decide between a candidate and its rival."""
    comparisons = [
        SetComparison(name, _apart(candidate, rival, name, settings), tolerance)
        for name, tolerance in _tolerances(candidate, settings).items()
        if name in rival.values
    ]
    return decide(comparisons, epsilon=settings.gate_epsilon, min_questions=settings.gate_min_questions)


def compare_for_drop(after: Scores, before: Scores, settings: Settings) -> str:
    """The sets whose quality fell beyond interval and tolerance, as a phrase for readers; empty if none did."""
    fallen = []
    for name, tolerance in _tolerances(after, settings).items():
        if name not in before.values:
            continue
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
            if rival and name in rival.values:
                apart = _apart(scores, rival, name, settings, metric)
                row = replace(row, rival=rival.system, difference=apart.value, diff_low=apart.low, diff_high=apart.high)
            rows.append(row)
        hierarchy = scores.hierarchy.get(name, {})
        rows += [replace(blank, metric=f"hierarchical_{item}", value=value) for item, value in hierarchy.items()]
    return rows


def mean_quality(scores: Scores, settings: Settings, rival: Scores | None = None) -> float:
    """Mean nDCG@10 of the question sets that decide in the gate, or of all sets if none decides; ranks candidates.

    With a rival only the sets that it has, too, count: a system without lexicon has none by text.
    """
    tolerances, least = _tolerances(scores, settings), settings.gate_min_questions
    tolerances = {name: tolerances[name] for name in tolerances if rival is None or name in rival.values}
    deciding = [name for name in tolerances if tolerances[name] is None and len(scores.documents[name]) >= least]
    return float(np.mean([scores.values[name][GATE_METRIC].mean() for name in deciding or tolerances]))


def _tolerances(scores: Scores, settings: Settings) -> dict[str, float | None]:
    """The tolerated loss of each question set; None for a set that decides: human questions, if there are enough."""
    people = len(scores.documents.get(HUMAN, ())) >= settings.gate_min_questions
    return {name: MAX_WRITTEN_LOSS if people and HUMAN not in name else None for name in scores.values}


def _apart(a: Scores, b: Scores, name: str, settings: Settings, metric: str = GATE_METRIC) -> Interval:
    ours, theirs = a.values[name][metric], b.values[name][metric]
    return paired_difference(ours, theirs, seed=settings.seed, groups=a.documents[name])
