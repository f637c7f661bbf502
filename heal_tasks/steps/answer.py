"""Step answer: what a language model makes of the passages that base model, live generation and candidate find.

HEAL judges retrieval by it (arXiv 2412.04661): is the right document found, how close is the answer to the right one
(ROUGE-L), how many answers are not supported by what was found. It informs people; the gate does not look at it.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import HealError
from heal_tasks.core.ids import bucket
from heal_tasks.evaluation.answers import ANSWERED, METRICS, rouge_l
from heal_tasks.evaluation.ranking import top_k
from heal_tasks.questions.llm.answering import Given, answer_inquiry, to_answer
from heal_tasks.questions.llm.prompt_spec import Answered
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.scoring import Scores, System, evaluation_rows
from heal_tasks.steps.quality.systems import Systems
from heal_tasks.steps.writing.llm_calls import STORE_EVERY, Bill, make_llm
from heal_tasks.steps.writing.spend_limit import SpendLimit, budget_of
from heal_tasks.store.documents.corpus import ChunkTable, Corpus, QuestionTable
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.questions.answers import AnswerRepository, StoredAnswer
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository

PASSAGES = 3
"""Chunks that a question is answered from."""


class Answering:
    """Asks for answers, stores them every few questions, and counts.

    Args:
        context: of the step.
    """

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._context, self._model, self._inquiry = context, settings.llm_model, answer_inquiry()
        self._repository = AnswerRepository(context.conn, self._inquiry.prompt_hash, self._model)
        self._llm, self._budget = make_llm(settings), budget_of(context.conn, settings, context.run_id)
        self.bill = Bill(settings, "answers", self._model, self._inquiry.prompt_hash)
        self._answers = list[StoredAnswer]()
        self._chunk_ids = dict[str, list[int]]()
        self.counts: Counter[str] = Counter(asked=0, reused=0, failed=0, over_budget=0)

    def answers(self, wanted: dict[str, tuple[ChunkToAsk, list[int]]]) -> dict[str, Given]:
        """Answers to questions, of those asked before the stored ones.

        Args:
            wanted: by content hash the question with its passages, and the ids of the chunks that they are from.

        Returns:
            By content hash; without those that failed or that the budget leaves over.
        """
        known = self._repository.known(wanted)
        to_ask = [chunk for content_hash, (chunk, _) in wanted.items() if content_hash not in known]
        self.counts["reused"] += len(known)
        self._chunk_ids = {content_hash: chunk_ids for content_hash, (_, chunk_ids) in wanted.items()}
        allowance = SpendLimit(self._budget, self._context.settings, self._inquiry, to_ask, self._store)
        try:
            allowance.spend(partial(self._llm.ask, self._inquiry), self._add, self._context.progress)
        finally:
            self.counts["over_budget"] += len(to_ask) - allowance.handed_out
        return {key: Given(*texts) for key, texts in self._repository.known(wanted).items()}

    def _add(self, answered: Answered[Given]) -> None:
        chunk, given = answered.chunk, answered.value or Given("", "")
        self.bill.add(chunk, answered.calls)
        if answered.status == "failed":
            self.counts["failed"] += 1
        else:
            self.counts["asked"] += 1
            # What was refused or never valid is settled too: asked again it would be paid for again.
            self._answers.append(
                StoredAnswer(
                    chunk.content_hash, self._inquiry.prompt_hash, self._model,
                    [chunk.chunk_id, *self._chunk_ids[chunk.content_hash]], answered.status, given.text, given.evidence,
                )
            )  # fmt: skip
        if len(self._answers) + len(self.bill.calls) >= STORE_EVERY:
            self._store()

    def _store(self) -> None:
        self._repository.store(self._context.run_id, self._answers, self.bill.calls)
        self._answers, self.bill.calls = [], []


def answer(context: Context) -> Outcome:
    """Have some held-out questions answered from what each system finds, and compare the answers.

    Every system is judged by the same questions: those answered from the passages of all. An endpoint that does not
    answer keeps nothing from being promoted; the note then says what is missing.

    Args:
        context: of the step.

    Returns:
        Counts of questions judged, of answers asked for, reused, failed and left over by the budget, tokens and cost.

    Raises:
        SettingsError: answers are wanted, and there is no language model.
    """
    settings = context.settings
    if not settings.answer_questions:
        return Outcome(note="no answers are wanted (HEAL_ANSWER_QUESTIONS=0)")
    settings.require_llm()
    corpus = Corpus(context.conn)
    chunks, questions = corpus.chunks(context.manifest.number("topic_run_id")), corpus.questions()
    rows, texts, references = _chosen(corpus, questions, chunks, settings.answer_questions)
    answering, found, problem = Answering(context), list[_Found](), ""
    try:
        for system in _systems(context, questions, chunks) if len(rows) else ():
            found.append(_answered(answering, corpus, system, questions, chunks, rows, texts))
    except HealError as error:
        found, problem = [], f"; not all systems could be judged: {error}"
    judged = [place for place in range(len(rows)) if found and all(place in system.given for system in found)]
    if judged:
        _record(context, found, judged, references, questions.document_ids[rows])
    return Outcome(
        counts={"judged": len(judged), **answering.counts, **answering.bill.figures()},
        note=f"{len(judged)} of {len(rows)} questions answered by {settings.llm_model} from the passages of "
        f"{', '.join(system.name for system in found) or 'no system'}{problem}",
    )


class _Found:
    """What one system found and what was made of it: by place among the questions."""

    def __init__(self, system: System) -> None:
        self.name, self.generation_id = system.name, system.generation_id
        self.right = dict[int, bool]()
        self.passages = dict[int, str]()
        self.given = dict[int, Given]()

    def values(self, judged: list[int], references: list[str]) -> dict[str, NDArray[np.float64]]:
        """Metrics, one value per judged question."""
        answers = [self.given[place] for place in judged]
        columns = (
            [self.right[place] for place in judged],
            [rouge_l(given.text, references[place]) for given, place in zip(answers, judged, strict=True)],
            [bool(given.text) for given in answers],
            [
                bool(given.text) and not given.supported_by(self.passages[place])
                for given, place in zip(answers, judged, strict=True)
            ],
        )
        return {name: np.array(values, dtype=np.float64) for name, values in zip(METRICS, columns, strict=True)}


def _chosen(
    corpus: Corpus, questions: QuestionTable, chunks: ChunkTable, count: int
) -> tuple[NDArray[np.int64], list[str], list[str]]:
    """Rows of the question table, texts and right answers of held-out questions, one per chunk, by hash."""
    held_out = questions.in_splits("unseen_test", "seen_test") & (chunks.rows(questions.chunk_ids) >= 0)
    known = corpus.right_answers(questions.question_ids[held_out])
    rows = [row for row in np.flatnonzero(held_out).tolist() if int(questions.question_ids[row]) in known]
    rows.sort(key=lambda row: bucket("answers", int(questions.question_ids[row]), 1 << 30))
    # Money is reserved under the chunk's id, so of a chunk's questions only one can be under way.
    first = dict[int, int]()
    for row in rows:
        first.setdefault(int(questions.chunk_ids[row]), row)
    chosen = list(first.values())[:count]
    pairs = [known[int(questions.question_ids[row])] for row in chosen]
    return np.array(chosen, dtype=np.int64), [text for text, _ in pairs], [right for _, right in pairs]


def _systems(context: Context, questions: QuestionTable, chunks: ChunkTable) -> Iterator[System]:
    """Base model, live generation where there is one, and the best candidate where there is one."""
    systems = Systems(context, chunks, questions)
    yield systems.base()
    if systems.active:
        yield systems.live()
    best = context.manifest.number("best_id")
    if best:
        name = context.manifest.text("best_system")
        yield systems.generation(name, GenerationRepository(context.conn).get(best))[0]


def _answered(
    answering: Answering,
    corpus: Corpus,
    system: System,
    questions: QuestionTable,
    chunks: ChunkTable,
    rows: NDArray[np.int64],
    texts: list[str],
) -> _Found:
    nearest, _ = top_k(system.questions[rows], system.chunks, min(PASSAGES, len(chunks.chunk_ids)))
    passages = corpus.chunk_texts(np.unique(chunks.chunk_ids[nearest]))
    found, wanted, keys = _Found(system), dict[str, tuple[ChunkToAsk, list[int]]](), list[str]()
    for place, (row, places) in enumerate(zip(rows.tolist(), nearest, strict=True)):
        ids = chunks.chunk_ids[places].tolist()
        asked = to_answer(int(questions.chunk_ids[row]), texts[place], [embedding_text(*passages[key]) for key in ids])
        found.right[place] = bool(chunks.document_ids[places[0]] == questions.document_ids[row])
        found.passages[place] = asked.text
        wanted[asked.content_hash] = (asked, ids)
        keys.append(asked.content_hash)
    answers = answering.answers(wanted)
    found.given = {place: answers[key] for place, key in enumerate(keys) if key in answers}
    return found


def _record(
    context: Context, found: list[_Found], judged: list[int], references: list[str], documents: NDArray[np.int64]
) -> None:
    """Rows of ``heal.evaluation``, each system against the base model."""
    measured, base = list[EvaluationRow](), None
    for system in found:
        scores = Scores(
            system.name, system.generation_id, {ANSWERED: system.values(judged, references)},
            {ANSWERED: documents[judged]},
        )  # fmt: skip
        measured += evaluation_rows(scores, base, context.settings)
        base = base or scores
    RunRepository(context.conn).record_evaluations(context.run_id, measured)


ANSWER = Step("answer", answer, None)
