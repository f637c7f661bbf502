"""Step answer: a language model answers questions from what base model, live generation and candidate retrieve.

HEAL measures retrieval by it (arXiv 2412.04661): is the right document found, how close is the answer to the right one
(ROUGE-L), how many answers do the passages not support. It is reported only; the gate does not use it.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from heal_tasks.core.errors import HealError
from heal_tasks.core.ids import bucket
from heal_tasks.evaluation.answers import ANSWERED, METRICS, rouge_l
from heal_tasks.evaluation.ranking import top_k
from heal_tasks.questions.filters import evidence_found
from heal_tasks.questions.llm.answer_prompt import GivenAnswer, answer_prompt, to_answer
from heal_tasks.questions.writer import Answered, Author, ChunkToAsk
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.comparing import evaluation_rows
from heal_tasks.steps.quality.scoring import Scores, System
from heal_tasks.steps.vectors.spaces import BASE_MODEL, base_space
from heal_tasks.steps.vectors.systems import Systems
from heal_tasks.steps.writing.llm_calls import AffordableChunks, Recorder, make_llm
from heal_tasks.store.documents.corpus import ChunkTable, Corpus, QuestionTable
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.questions.answers import AnswerRepository, StoredAnswer
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository

PASSAGES = 3
"""Number of chunks that a question is answered from."""


class AnswerRecorder(Recorder[GivenAnswer, StoredAnswer]):
    """Asks for answers and records them."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._spec = answer_prompt()
        author = Author("llm", settings.llm_model, self._spec.prompt_hash)
        self._repository = AnswerRepository(context.conn, author.prompt_hash, author.model)
        self._llm, self._chunk_ids = make_llm(settings), dict[str, list[int]]()
        super().__init__(context, "answers", author, self._repository.store, ("asked", "refused"))

    def answers(self, wanted: dict[str, tuple[ChunkToAsk, list[int]]]) -> dict[str, GivenAnswer]:
        """Answer questions with their passages, and the ids of the passages' chunks, by content hash.

        Those asked before come from the store. Those that failed, that the model refused or that the spend limit leaves
        over are missing.
        """
        known = self._repository.known(wanted)
        to_ask = self.new_first(chunk for content_hash, (chunk, _) in wanted.items() if content_hash not in known)
        self.counts["reused"] += len(known)
        self._chunk_ids = {content_hash: chunk_ids for content_hash, (_, chunk_ids) in wanted.items()}
        AffordableChunks(self, self._spec, to_ask).ask(partial(self._llm.ask, self._spec))
        return {key: GivenAnswer(*texts) for key, texts in self._repository.known(wanted).items() if texts}

    def _row(self, answer: Answered[GivenAnswer]) -> StoredAnswer:
        self.counts.update(asked=1, refused=answer.status == "refused")
        chunk, given = answer.chunk, answer.value or GivenAnswer()
        return StoredAnswer(
            chunk.content_hash, self._author.prompt_hash, self._author.model,
            [chunk.chunk_id, *self._chunk_ids[chunk.content_hash]], answer.status, given.text, given.evidence,
        )  # fmt: skip


def answer(context: Context) -> Outcome:
    """Have some held-out questions answered from what each system retrieves, and compare the answers.

    All systems are measured with the same questions: those answered for every system. An endpoint that does not answer
    does not keep a candidate from being promoted; the note then says what is missing.
    """
    settings = context.settings
    if not settings.answer_questions:
        return Outcome(note="no answers are wanted (HEAL_ANSWER_QUESTIONS=0)")
    settings.require_llm()
    corpus = Corpus(context.conn)
    systems = Systems(context.conn, settings, context.manifest.number("topic_run_id"))
    chosen = _choose(corpus, systems.questions, systems.chunks, settings.answer_questions)
    recorder, results, problem = AnswerRecorder(context), list[tuple[System, list[tuple[float, ...] | None]]](), ""
    try:
        for system in _measured(context, systems) if chosen else ():
            results.append((system, _ask(recorder, corpus, system, chosen, systems.chunks)))
        recorder.refuse_if_failing(recorder.counts["failed"], recorder.counts["asked"] + recorder.counts["failed"])
    except HealError as error:
        results, problem = [], f"; not all systems could be measured: {error}"
    for outcome in ("refused", "failed"):
        if recorder.counts[outcome]:
            problem = f"; {recorder.counts[outcome]} {outcome}{problem}"
    measured = [place for place in range(len(chosen)) if results and all(found[place] for _, found in results)]
    documents, rows, base = np.array([chosen[place].document_id for place in measured]), list[EvaluationRow](), None
    for system, found in results if measured else ():
        values = np.array([found[place] for place in measured], dtype=np.float64)
        by_metric = dict(zip(METRICS, values.T, strict=True))
        scores = Scores(system.name, system.generation_id, {ANSWERED: by_metric}, {ANSWERED: documents})
        rows += evaluation_rows(scores, base, settings)
        base = base or scores
    RunRepository(context.conn).record_evaluations(context.run_id, rows)
    return Outcome(
        counts={"measured": len(measured), **recorder.figures()},
        note=f"{len(measured)} of {len(chosen)} questions answered by {settings.llm_model} from the passages of "
        f"{', '.join(system.name for system, _ in results) or 'no system'}{problem}",
        undone="" if measured else f"No answers were measured: {problem[2:] or _why_unmeasured(chosen)}",
    )


def _why_unmeasured(chosen: list["_Question"]) -> str:
    if not chosen:
        return "no held-out question has a known answer"
    return f"none of the {len(chosen)} questions has an answer for every system; heal.llm_call has the replies"


class _Question(NamedTuple):
    row: int
    chunk_id: int
    document_id: int
    text: str
    reference: str


def _choose(corpus: Corpus, questions: QuestionTable, chunks: ChunkTable, count: int) -> list[_Question]:
    """Choose held-out questions with known answers by hash, one per chunk."""
    held_out = questions.in_splits("unseen_test", "seen_test") & (chunks.rows(questions.chunk_ids) >= 0)
    known, ids = corpus.right_answers(questions.question_ids[held_out]), questions.question_ids.tolist()
    rows = [row for row in np.flatnonzero(held_out).tolist() if ids[row] in known]
    # Money is reserved under the chunk's id, so of a chunk's questions only one can be under way.
    first = dict[int, _Question]()
    for row in sorted(rows, key=lambda row: bucket("answers", ids[row], 1 << 30)):
        chunk_id = int(questions.chunk_ids[row])
        first.setdefault(chunk_id, _Question(row, chunk_id, int(questions.document_ids[row]), *known[ids[row]]))
    return list(first.values())[:count]


def _measured(context: Context, systems: Systems) -> Iterator[System]:
    """Base model, live generation where there is one, and the best candidate where there is one."""
    yield systems.plain(BASE_MODEL, base_space(context))
    if systems.active:
        yield systems.live()
    if best := context.manifest.number("best_id"):
        generation = GenerationRepository(context.conn).get(best)
        yield systems.of_generation(context.manifest.text("best_system"), generation)


def _ask(
    recorder: AnswerRecorder, corpus: Corpus, system: System, questions: list[_Question], chunks: ChunkTable
) -> list[tuple[float, ...] | None]:
    """``METRICS`` of the questions, answered from the passages that a system retrieves; None without an answer."""
    vectors = system.queries(np.array([question.row for question in questions], dtype=np.int64))
    nearest, _ = top_k(vectors, system.chunks, min(PASSAGES, len(chunks.chunk_ids)))
    passages = corpus.chunk_texts(np.unique(chunks.chunk_ids[nearest]))
    keys, wanted = list[str](), dict[str, tuple[ChunkToAsk, list[int]]]()
    for question, places in zip(questions, nearest, strict=True):
        ids = chunks.chunk_ids[places].tolist()
        asked = to_answer(question.chunk_id, question.text, [embedding_text(*passages[key]) for key in ids])
        wanted[asked.content_hash] = (asked, ids)
        keys.append(asked.content_hash)
    answers = recorder.answers(wanted)

    def metrics(question: _Question, key: str, document_id: int) -> tuple[float, ...] | None:
        if (given := answers.get(key)) is None:
            return None
        # A model that answers from elsewhere has nothing to copy.
        unsupported = bool(given.text) and not evidence_found(given.evidence, wanted[key][0].text)
        overlap = rouge_l(given.text, question.reference)
        return document_id == question.document_id, overlap, bool(given.text), unsupported

    return list(map(metrics, questions, keys, chunks.document_ids[nearest[:, 0]].tolist()))


def _inputs(context: Context) -> object:
    return [context.settings.llm_model, context.settings.answer_questions]


ANSWER = Step("answer", answer, _inputs, of_run=True)
