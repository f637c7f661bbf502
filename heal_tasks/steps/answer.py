"""Step answer: a language model answers questions from what base model, live generation and candidate retrieve.

HEAL measures retrieval by it (arXiv 2412.04661): is the right document found, how close is the answer to the right one
(ROUGE-L), how many answers do the passages not support. It informs people; the gate does not use it.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import HealError
from heal_tasks.core.ids import bucket
from heal_tasks.evaluation.answers import ANSWERED, METRICS, rouge_l
from heal_tasks.evaluation.ranking import top_k
from heal_tasks.questions.llm.answer_prompt import GivenAnswer, answer_prompt, to_answer
from heal_tasks.questions.writer import Answered, Author, ChunkToAsk
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.scoring import Scores, System, evaluation_rows
from heal_tasks.steps.quality.systems import Systems
from heal_tasks.steps.writing.llm_calls import make_llm
from heal_tasks.steps.writing.recorder import Bill, Recorder
from heal_tasks.steps.writing.spend_limit import AffordableChunks, spend_limit_of
from heal_tasks.store.documents.corpus import ChunkTable, Corpus, QuestionTable
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.llm.ledger import LlmCall
from heal_tasks.store.questions.answers import AnswerRepository, StoredAnswer
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository

PASSAGES = 3
"""Number of chunks that a question is answered from."""


class AnswerRecorder(Recorder[GivenAnswer, StoredAnswer]):
    """Asks for answers and records them.
    """

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._context, self._model, self._spec = context, settings.llm_model, answer_prompt()
        self._repository = AnswerRepository(context.conn, self._spec.prompt_hash, self._model)
        self._llm, self._limit = make_llm(settings), spend_limit_of(context.conn, settings, context.run_id)
        self._chunk_ids = dict[str, list[int]]()
        bill = Bill(settings, "answers", Author("llm", self._model, self._spec.prompt_hash))
        super().__init__(bill, ("asked", "reused", "over_spend_limit"))

    def answers(self, wanted: dict[str, tuple[ChunkToAsk, list[int]]]) -> dict[str, GivenAnswer]:
        """Answer questions, those asked before from the store.

        Args:
            wanted: by content hash the question with its passages, and the ids of the passages' chunks.

        Returns:
            By content hash; without those that failed or that the spend limit leaves over.
        """
        known = self._repository.known(wanted)
        to_ask = [chunk for content_hash, (chunk, _) in wanted.items() if content_hash not in known]
        self.counts["reused"] += len(known)
        self._chunk_ids = {content_hash: chunk_ids for content_hash, (_, chunk_ids) in wanted.items()}
        affordable = AffordableChunks(self._context, self._limit, self._spec, to_ask, self)
        try:
            affordable.ask(partial(self._llm.ask, self._spec))
        finally:
            self.counts["over_spend_limit"] += len(to_ask) - affordable.handed_out
        return {key: GivenAnswer(*texts) for key, texts in self._repository.known(wanted).items()}

    def _write(self, rows: Sequence[StoredAnswer], calls: Sequence[LlmCall]) -> None:
        self._repository.store(self._context.run_id, rows, calls)

    def _row(self, answer: Answered[GivenAnswer]) -> StoredAnswer:
        self.counts["asked"] += 1
        chunk, given = answer.chunk, answer.value or GivenAnswer("", "")
        return StoredAnswer(
            chunk.content_hash, self._spec.prompt_hash, self._model,
            [chunk.chunk_id, *self._chunk_ids[chunk.content_hash]], answer.status, given.text, given.evidence,
        )  # fmt: skip


def answer(context: Context) -> Outcome:
    """Have some held-out questions answered from what each system retrieves, and compare the answers.

    All systems are measured with the same questions: those answered for every system. An endpoint that does not answer
    does not keep a candidate from being promoted; the note then says what is missing.

    Returns:
        Counts of questions measured, of answers asked for, reused, failed and left over by the spend limit; tokens and
        cost.

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
    recorder, found, problem = AnswerRecorder(context), list[_Found](), ""
    try:
        for system in _systems(context, questions, chunks) if len(rows) else ():
            found.append(_answered(recorder, corpus, system, questions, chunks, rows, texts))
    except HealError as error:
        found, problem = [], f"; not all systems could be judged: {error}"
    judged = [place for place in range(len(rows)) if found and all(place in system.given for system in found)]
    if judged:
        _record(context, found, judged, references, questions.document_ids[rows])
    return Outcome(
        counts={"judged": len(judged), **recorder.figures()},
        note=f"{len(judged)} of {len(rows)} questions answered by {settings.llm_model} from the passages of "
        f"{', '.join(system.name for system in found) or 'no system'}{problem}",
    )


class _Found:
    """What one system retrieved and the answers from it, by position among the questions."""

    def __init__(self, system: System) -> None:
        self.name, self.generation_id = system.name, system.generation_id
        self.right = dict[int, bool]()
        self.passages = dict[int, str]()
        self.given = dict[int, GivenAnswer]()

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
    recorder: AnswerRecorder,
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
    answers = recorder.answers(wanted)
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
