"""Retrieval quality of vector spaces on the held-out question sets, ready for the gate and the report."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import bucket
from heal_tasks.core.metrics import NDCG, TOP_K, TOPIC_AGREEMENT, topic_agreement
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.calibration import Curve, relevance_curve
from heal_tasks.evaluation.hierarchy import hierarchical_scores
from heal_tasks.evaluation.ranking import first_of_each, ranking_metrics, top_k
from heal_tasks.lexicon.search import LexicalSearch
from heal_tasks.nudge.questions import QuestionSet
from heal_tasks.questions.splits import is_unseen_test
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

UNSEEN, SEEN, HUMAN = "unseen documents", "seen documents, unseen questions", "human questions"
QUESTION_SETS = (UNSEEN, SEEN, HUMAN)
TOPICS = "topics of unseen documents"
"""The set of documents, not questions, that shows if the nearest documents are of the same topic."""
BY_ENCODER, BY_TEXT = "", ", by text"
"""The query paths, as added to the name of a question set: the encoder's vector with the lexicon's; the text alone, by
lexicon and words, as ``heal.find`` searches."""
CHUNKS_RANKED = 60
"""Chunks among which the ten best documents are looked for, where a whole document is right."""
CHUNKS_WITH_WORDS = 20
"""Nearest chunks that ``heal.find`` ranks by their words as well."""
MOST_GENERATED = 10_000
"""Generated questions that a set is judged by, at most; where there are more, at least half as many. Each is compared
with every chunk, and there are up to three for a chunk, so that all of them would cost the square of the corpus. The
standard error of a difference in nDCG@10 is then below .005."""
MOST_DOCUMENTS = 500
"""Documents whose neighbours are looked for, at most: the standard error of a difference is then below .01."""


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
    """Retrieval quality of one system by set of questions, and its topic agreement on the set ``TOPICS``.

    ``hierarchy`` holds precision, recall and F1 of the retrieved documents' topic paths, which are only reported.
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
    chunks that a question moves count: the one that it is stored with, and those that are nearly as near.
    """
    rows = np.flatnonzero(chosen & (chunks.rows(questions.chunk_ids) >= 0))
    _, first, text = np.unique(questions.texts[rows], return_index=True, return_inverse=True)
    answers = chunks.rows(questions.chunk_ids[rows])
    if moving:
        place = np.full(len(questions.question_ids), -1)
        place[rows] = np.arange(len(rows))
        asked, near = place[questions.near_rows], chunks.rows(questions.near_chunk_ids)
        there = (asked >= 0) & (near >= 0)
        answers, text = np.concatenate([answers, near[there]]), np.concatenate([text, text[asked[there]]])
    else:
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


def llm_wrote(questions: QuestionTable) -> bool:
    """True if a language model, not the extractive writer, wrote most of the generated questions that move rows."""
    extracted = questions.extracted[questions.moves & ~questions.human]
    return bool(len(extracted)) and float(extracted.mean()) < 0.5


def held_out(questions: QuestionTable, chunks: ChunkTable) -> dict[str, AnswerKey]:
    """The held-out question sets that are not empty; all human questions are a set, and some of the generated ones."""
    written = ~questions.human
    masks = {
        UNSEEN: written & questions.in_splits("unseen_test"),
        SEEN: written & questions.in_splits("seen_test"),
        HUMAN: questions.human & questions.in_splits("unseen_test", "seen_test"),
    }
    sets = {name: judged(questions, chunks, mask) for name, mask in masks.items() if mask.any()}
    return {name: key if name == HUMAN else key.first(MOST_GENERATED) for name, key in sets.items()}


def score(
    system: System, questions: QuestionTable, chunks: ChunkTable, topic_rows: Int64Array, twin: Scores | None = None
) -> Scores:
    """Score a system on every held-out question set and query path, and by topics, by exact search over all chunks.

    A generated question is answered by its chunk, a human question by a document, which is ranked by its best chunk.
    ``topic_rows`` are those of ``unseen_documents``. ``twin`` are the scores of the same chunk vectors with another
    lexicon or none: their topic agreement is taken over.
    """
    values, documents, hierarchy = {}, {}, {}
    for name, key in held_out(questions, chunks).items():
        for path in (BY_ENCODER, BY_TEXT) if system.lexical else (BY_ENCODER,):
            found, values[name + path] = rank(system, key, chunks, path, documents=name == HUMAN)
            documents[name + path] = key.documents
            paths = np.where((found >= 0)[:, :, None], chunks.paths[found], -1)
            hierarchy[name + path] = hierarchical_scores(paths, chunks.paths[[rows[0] for rows in key.positives]])
    if len(topic_rows):
        values[TOPICS] = dict(twin.values[TOPICS]) if twin else {TOPIC_AGREEMENT: agreement(system, chunks, topic_rows)}
        documents[TOPICS] = chunks.document_ids[topic_rows]
    return Scores(system.name, system.generation_id, values, documents, hierarchy)


def unseen_documents(chunks: ChunkTable) -> Int64Array:
    """Rows of the first chunks of documents that have a topic and took no part in training or in the topics."""
    ids, first = np.unique(chunks.document_ids, return_index=True)
    kept = [row for number, row in zip(ids.tolist(), first, strict=True) if is_unseen_test(number)]
    labelled = [row for row in kept if (chunks.paths[row] >= 0).any()]  # a tree of one topic has no path
    drawn = sorted(labelled, key=lambda row: bucket("topics", int(chunks.document_ids[row]), 1 << 30))
    return np.array(drawn[:MOST_DOCUMENTS], dtype=np.int64)


def agreement(system: System, chunks: ChunkTable, rows: Int64Array) -> NDArray[np.float64]:
    """Topic agreement of the documents of some chunks with the ten documents that are nearest; float64, shape (m,)."""
    found, _ = top_k(system.chunks[rows], system.chunks, CHUNKS_RANKED)
    own = chunks.document_ids[rows, None]
    found[chunks.document_ids[found] == own] = -1
    _, owners = np.unique(chunks.document_ids, return_inverse=True)
    best = first_of_each(found, owners, TOP_K)
    return topic_agreement(np.where((best >= 0)[:, :, None], chunks.paths[best], -1), chunks.paths[rows])


def quality(system: System, key: AnswerKey, chunks: ChunkTable, path: str = BY_ENCODER) -> NDArray[np.float64]:
    """nDCG@10 of a system on each of some questions, over documents; float64, shape (m,)."""
    return rank(system, key, chunks, path, documents=True)[1][NDCG]


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
