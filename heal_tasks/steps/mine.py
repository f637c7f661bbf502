"""Step mine: the training set, with near and far negatives chosen by the base model's own similarities."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import bucket, fingerprint
from heal_tasks.core.models import api_model
from heal_tasks.core.settings import Settings
from heal_tasks.questions.maps.map_prompt import parse_map
from heal_tasks.questions.maps.rendering import query_view, render
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.map_entities import map_author, maps_by
from heal_tasks.steps.quality.scoring import judged, people_decide
from heal_tasks.steps.vectors.adopted import asked_by_clients
from heal_tasks.steps.vectors.spaces import BASE_MODEL, Int64Array, base_space
from heal_tasks.steps.vectors.systems import Systems
from heal_tasks.steps.vectors.training_set import FORMAT, save
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import ChunkTable, Corpus, QuestionTable
from heal_tasks.training.negatives import plan_negatives
from heal_tasks.training.trainer import ValidationSet

VALIDATION_QUESTIONS, VALIDATION_CHUNKS = 150, 400
"""Questions of an evaluation during training, and chunks that they are answered from: every evaluation encodes both."""
MOST_QUESTIONS = 50_000
"""Training questions, at most, each compared with all chunks; a training by default sees 640 of them."""


def _inputs(context: Context) -> object:
    settings, corpus = context.settings, Corpus(context.conn)
    questions, author = corpus.questions(), map_author(settings)
    return [
        FORMAT, fingerprint([questions.question_ids.tolist(), questions.chunk_ids.tolist()]), corpus.hash(),
        context.manifest.number("topic_run_id"), base_space(context).model_sha256, settings.train_near_negatives,
        settings.train_far_negatives, VALIDATION_QUESTIONS, VALIDATION_CHUNKS,
        settings.gate_min_questions, settings.seed, settings.map_rate,
        *([*author, maps_by(context.conn, author).usable().fingerprint] if settings.map_rate else ()),
        str(context.manifest.refs.get("skip_training", "")), *asked_by_clients(context.conn),
    ]  # fmt: skip


def mine(context: Context) -> Outcome:
    """Plan negatives for every training question and write the training set as an artifact.

    Negatives are chosen by plain texts, and held-out questions and documents are plain texts, whatever the share of
    entity maps: plain text is what is served. Ref ``by_people`` is 1 if only human questions train.
    """
    skipped = str(context.manifest.refs.get("skip_training", ""))
    if api_model(context.settings.model):
        skipped = f"No training: {context.settings.model} is behind an API; NUDGE and lexicon align its vectors."
    elif asking := asked_by_clients(context.conn):
        skipped = (
            f"No training: clients of {', '.join(asking)} ask with vectors of {context.settings.model}; NUDGE and "
            "lexicon align the stored ones."
        )
    if skipped:
        return Outcome(refs={"training_set_uri": "", "by_people": 0}, note=skipped)
    settings, corpus = context.settings, Corpus(context.conn)
    systems = Systems(context.conn, settings, context.manifest.number("topic_run_id"))
    chunks, questions, base = systems.chunks, systems.questions, systems.plain(BASE_MODEL, base_space(context))
    by_people = people_decide(questions, settings)
    count = questions.deciding_mask(by_people)
    train = _at_most(np.flatnonzero(count & questions.in_splits("train")), questions, settings.seed)
    positives = chunks.rows(questions.chunk_ids[train])
    negatives = plan_negatives(
        base.questions[train], base.chunks, positives, document_ids=chunks.document_ids,
        question_ids=questions.texts[train], near=settings.train_near_negatives, far=settings.train_far_negatives,
        seed=settings.seed,
    )  # fmt: skip
    held_out = questions.in_splits("unseen_validation") | (by_people & questions.in_splits("seen_validation"))
    drawn, pool, answers = _draw_validation(chunks, questions, count & held_out, settings.seed)
    shown = np.union1d(positives[positives >= 0], negatives[negatives >= 0])
    texts = corpus.chunk_texts(chunks.chunk_ids[np.union1d(shown, pool)])
    asked = corpus.question_texts(questions.question_ids[np.union1d(train, drawn)])

    def document(row: int) -> str:
        return embedding_text(*texts[int(chunks.chunk_ids[row])])

    views = MapViews(context.conn, settings, chunks.chunk_ids[shown].tolist())

    def shown_chunk(row: int) -> dict[str, Any]:
        text = views.document(int(chunks.chunk_ids[row]), document(row))
        return {"document": text, "document_id": int(chunks.document_ids[row]), "leaf": int(chunks.leaves[row])}

    def shown_question(row: int) -> str:
        number = int(questions.question_ids[row])
        return views.question(number, int(questions.chunk_ids[row]), asked[number])

    rows = [
        {
            "question": shown_question(int(question)),
            "question_id": int(questions.texts[question]),
            **shown_chunk(row),
            "path": [int(topic) for topic in chunks.paths[row] if topic >= 0],
            "negatives": [shown_chunk(negative) for negative in planned if negative >= 0],
        }
        for question, row, planned in zip(train, positives, negatives, strict=True)
        if row >= 0
    ]
    validation = ValidationSet(
        queries=[asked[number] for number in questions.question_ids[drawn].tolist()],
        documents=[document(row) for row in pool],
        positives=answers,
        document_ids=chunks.document_ids[pool],
        paths=chunks.paths[pool],
        base_vectors=(base.questions[drawn], base.chunks[pool]),
    )
    key = f"training_sets/{fingerprint(_inputs(context))}"
    with context.artifacts.writing(key) as folder:
        save(folder, rows, validation)
    mined = int((negatives >= 0).sum())
    note = f"{len(rows)} training questions, {mined} mined negatives, {len(validation.queries)} validation questions"
    note += ", human questions alone" if by_people else ""
    if settings.map_rate:
        note += f"; shown as entity maps: {views.questions} questions and {views.chunks} of {len(shown)} chunks"
    return Outcome(
        refs={"training_set_uri": context.artifacts.uri(key), "by_people": int(by_people)},
        counts={
            "train": len(rows), "validation": len(validation.queries), "negatives": mined, "chunks": len(shown),
            "map_questions": views.questions, "map_chunks": views.chunks,
        },
        note=note,
        undone="" if rows else "No training set: there are no training questions",
    )  # fmt: skip


def _at_most(rows: Int64Array, questions: QuestionTable, seed: int) -> Int64Array:
    """Some rows of questions, of ``MOST_QUESTIONS`` texts at most; a text keeps all its rows, which are its answers."""
    texts = np.unique(questions.texts[rows])
    if len(texts) <= MOST_QUESTIONS:
        return rows
    kept = np.random.default_rng(seed).choice(texts, MOST_QUESTIONS, replace=False)
    return rows[np.isin(questions.texts[rows], kept)]


def _draw_validation(
    chunks: ChunkTable, questions: QuestionTable, chosen: NDArray[np.bool_], seed: int
) -> tuple[Int64Array, Int64Array, list[Int64Array]]:
    """Rows of some chosen questions; rows of chunks, their answers and others; the answers as places among these."""
    rng = np.random.default_rng(seed)
    held_out = judged(questions, chunks, chosen)
    drawn = np.sort(rng.permutation(len(held_out.rows))[:VALIDATION_QUESTIONS])
    rows = held_out.rows[drawn]
    answers = chunks.rows(questions.chunk_ids[rows])
    others = rng.permutation(np.setdiff1d(np.arange(len(chunks.chunk_ids)), answers))
    pool = np.union1d(answers, others[: max(0, VALIDATION_CHUNKS - len(np.unique(answers)))])
    return rows, pool, [np.flatnonzero(np.isin(pool, held_out.positives[place])) for place in drawn]


class MapViews:
    """The training texts of chunks and their questions; a share is replaced by renderings of their entity maps.

    APEX-Embedding (Aviss 2024, arXiv 2410.18105) trains on maps instead of plain text, of queries and documents alike,
    and reports better retrieval of plain text. A hash of seed and id draws the share, so it is the same on every
    machine and in every run. Chunks and questions are drawn separately, and a chunk has the same form as right document
    and as negative, so that the form does not tell which document is right.
    """

    def __init__(self, conn: Connection, settings: Settings, chunk_ids: Iterable[int]) -> None:
        self._rate, self._seed = settings.map_rate, settings.seed
        # As JSON text: a parsed map takes more than twice the memory.
        self._maps = maps_by(conn, map_author(settings)).of_chunks(set(chunk_ids)) if self._rate else {}
        self._rendered = {
            chunk_id: render(parse_map(stored))
            for chunk_id, stored in self._maps.items()
            if self._drawn("document", chunk_id)
        }
        self.chunks, self.questions = len(self._rendered), 0

    def document(self, chunk_id: int, text: str) -> str:
        """The rendering of a chunk's map, or its text."""
        return self._rendered.get(chunk_id, text)

    def question(self, question_id: int, chunk_id: int, text: str) -> str:
        """The rendering of what a question mentions of its chunk's map (see ``query_view``), or its text."""
        if chunk_id not in self._maps or not self._drawn("question", question_id):
            return text
        shown = query_view(parse_map(self._maps[chunk_id]), text)
        self.questions += bool(shown)
        return shown or text

    def _drawn(self, what: str, key: int) -> bool:
        return bucket(f"map-view {what} {self._seed}", key, 1_000_000) < self._rate * 1_000_000


MINE = Step("mine", mine, _inputs)
