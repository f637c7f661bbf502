"""The systems that a run compares, in memory: vectors of a space as they are, or as NUDGE moves them.

NUDGE counts rows; the store keeps its contrast state by the ids of chunks and questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.devices import pick_device
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.calibration import Curve
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.search import LexicalSearch
from heal_tasks.nudge.apply import move_rows
from heal_tasks.nudge.contrast import Displacements, displace
from heal_tasks.nudge.nudge import nudge
from heal_tasks.nudge.plan import PLANS, WRITTEN_PLAN_OF_MANY, WRITTEN_PLANS, NudgeRecord, Plan
from heal_tasks.nudge.questions import QuestionSet
from heal_tasks.nudge.solve import gradients
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.quality.scoring import (
    Scores,
    System,
    judged,
    llm_wrote,
    people_decide,
    relevance,
    score,
    unseen_documents,
)
from heal_tasks.steps.vectors.lexicons import CorpusStems, LexiconFitter
from heal_tasks.steps.vectors.spaces import Float32Array, Int64Array, in_order, overlay
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import ChunkTable, Corpus
from heal_tasks.store.generations.contrast_state import ContrastRepository, ContrastState
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.lexicon import LexiconRepository
from heal_tasks.store.generations.nudge_state import TouchedRows
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

LIVE = "live generation"
MOST_JUDGED = 2000
"""Held-out questions that the relevance curves are fitted to, at most."""
CONTRAST_PAIRS = 300_000_000
"""Pairs of training question and answering chunk up to which contrastive plans are tried: their cost grows with the
pairs, about a minute on two cores here (bench/RESULTS.md)."""


@dataclass(frozen=True)
class Moved:
    """Rows of a space that questions have moved."""

    rows: Int64Array  # (c,): the rows of the chunk table that changed
    vectors: Float32Array  # (c, d): their new vectors
    record: NudgeRecord | None  # None: validation supports no move
    contrast: ContrastState  # empty without a contrastive plan
    note: str = ""  # the choice in words


class Systems:
    """Loads and moves the vectors of systems over the same questions and chunks, which a topic run has labelled.

    Vectors are not kept: at 1,000,000 chunks of 384 dimensions one matrix takes 1.5 GB.
    """

    def __init__(self, conn: Connection, settings: Settings, topic_run_id: int | None) -> None:
        self._conn, self._settings, self._spaces, corpus = conn, settings, SpaceRepository(conn), Corpus(conn)
        self.chunks, self.questions = corpus.chunks(topic_run_id), corpus.questions()
        self.active = GenerationRepository(conn).active()

    @cached_property
    def lexicons(self) -> LexiconFitter:
        """Fits lexicons to candidates; reads the stems of all chunks on first use."""
        stems = CorpusStems(self._conn, self.chunks, self.questions)
        return LexiconFitter(self._settings, self.chunks, self.questions, stems)

    @cached_property
    def _topic_rows(self) -> Int64Array:
        return unseen_documents(self.chunks)

    def score(self, system: System, twin: Scores | None = None) -> Scores:
        """Score a system on every held-out question set, and by topics; ``twin`` has the same chunk vectors."""
        return score(system, self.questions, self.chunks, self._topic_rows, twin)

    def relevance(self, system: System) -> dict[str, Curve]:
        """Curves of the relevance of found rows, by query path, from the held-out questions that decide; none without.

        Extracted questions have the words of their chunk and so its score: by them a right answer to a person's
        question would have a relevance of .03.
        """
        test = self.questions.in_splits("unseen_test", "seen_test") & ~self.questions.extracted
        deciding = self.questions.human & test if people_decide(self.questions, self._settings) else test
        return relevance(system, judged(self.questions, self.chunks, deciding).first(MOST_JUDGED))

    def plain(self, name: str, space: Space) -> System:
        """The vectors of a space, not moved."""
        asked = in_order(self.questions.question_ids, *self._spaces.load_questions(space))
        return System(name, None, asked, in_order(self.chunks.chunk_ids, *self._spaces.load_chunks(space)))

    def live(self) -> System:
        """The live generation over today's documents: its lexicon, its served vectors, base vectors for new chunks."""
        assert self.active is not None
        plain = self.plain(LIVE, self._spaces.get(self.active.space_id))
        chunks = overlay(self.chunks.chunk_ids, plain.chunks, ServedRepository(self._conn).load_served(self.active))
        search = self.stored_lexicon(self.active)
        return replace(plain, generation_id=self.active.generation_id, chunks=chunks, lexical=search)

    def stored_lexicon(self, generation: Generation) -> LexicalSearch | None:
        """All questions, ready to be searched by the lexicon of a generation; None where it has none."""
        if (record := lexicon_record_of(generation)) is None:
            return None
        stored, stems = LexiconRepository(self._conn).load(generation), self.lexicons.stems
        return stems.search(record, stems.lexicon_of(stored))

    def of_generation(self, name: str, generation: Generation) -> System:
        """The vectors and the lexicon of a chosen generation, made from its space and its records."""
        plain = self.plain(name, self._spaces.get(generation.space_id))
        vectors, search = moved_copy(plain.chunks, self.moves_of(generation, plain)), None
        if record := lexicon_record_of(generation):
            search = self.lexicons.stems.search(record, self.lexicons.fit(record, plain.chunks, vectors))
        return replace(plain, generation_id=generation.generation_id, chunks=vectors, lexical=search)

    def moves_of(self, generation: Generation, plain: System) -> Moved | None:
        """The rows of a generation's space that its nudge record moves; None without a record."""
        record = record_of(generation)
        return self.apply_record(record, plain) if record else None

    def write_lexicon(self, generation: Generation, plain: System, served: Float32Array) -> int:
        """Fit and write the lexicon of a generation by its record, and return the number of stems.

        ``plain`` has the vectors of its space, ``served``, float32, shape (n, d), those that it serves.
        """
        record = lexicon_record_of(generation) or LexiconRecord(lexicon_weight=0)
        lexicon = self.lexicons.fit(record, plain.chunks, served)
        record = replace(record, chunks=len(served))
        GenerationRepository(self._conn).set_fields(generation.generation_id, lexicon=record.to_json())
        stored = self.lexicons.stems.stored(lexicon)
        return LexiconRepository(self._conn).write(generation, stored, self.chunks.chunk_ids)

    def find_moves(self, system: System, plan: Plan | None = None) -> Moved:
        """Choose plan and theta on validation questions, then find the moves by all questions that may move rows.

        Args:
            system: vectors of a space, not moved. A language model's questions judge the moves as they will be served,
                with the lexicon if there is one: without it they lose more (ATT&CK: .011 instead of .002).
            plan: the plan for a language model's questions, as found in the base model's space; None chooses one. A
                trained model has learnt the questions that move rows, so held-out ones lose more where human questions
                gain as much (ATT&CK: .023 by prior 8, which is refused there).
        """
        settings, chunks, questions, asked = self._settings, self.chunks, self.questions, system.questions
        by_people = people_decide(questions, settings)
        by_llm = not by_people and llm_wrote(questions)
        deciding = questions.deciding_mask(by_people)

        def judging(chosen: NDArray[np.bool_]) -> QuestionSet:
            key = judged(questions, chunks, chosen)
            return QuestionSet(system.queries(key.rows) if by_llm else asked[key.rows], key.positives)

        # The gate judges unseen documents as a set of its own, so they must not lose while others gain: on ATT&CK, with
        # questions held out by document, the best plan on average gained .11 and lost .04 on these: all was refused.
        unseen = judging(questions.in_splits("unseen_validation") & ~questions.human)
        train = judged(questions, chunks, deciding & questions.in_splits("train"), moving=True).with_vectors(asked)
        movers = judged(questions, chunks, deciding & questions.moves, moving=True)
        result = nudge(
            system.chunks,
            train,
            judging(deciding & questions.in_splits("seen_validation", "unseen_validation")),
            variant=settings.nudge_variant,
            plans=(plan,) if by_llm and plan else _plans(train, WRITTEN_PLANS if by_llm else PLANS),
            refit=movers.with_vectors(asked),
            min_gain=settings.gate_epsilon,
            max_loss=(np.inf if plan else settings.gate_epsilon) if by_llm else None,
            unasked=unseen if len(unseen.positives) >= settings.gate_min_questions else None,
            # Human questions cost generated ones a little: with 0, SciFact's theta would be .06 instead of .57.
            max_unasked_loss=settings.gate_epsilon if by_people else 0.0,
            seed=settings.seed,
            device=pick_device(settings.device),
        )
        choice = result.choice
        if choice is None or not result.adopted or not len(result.rows):
            nothing = np.empty(0, dtype=np.int64)
            empty = ContrastState.empty(system.chunks.shape[1])
            missing = "training" if not len(train.positives) else "" if choice else "validation"
            why = f"there are no {missing} questions" if missing else "validation gains too little"
            if choice and by_llm and not missing:
                why = f"held-out questions lose {-choice.gain:.3f} by the most cautious plan"
            return Moved(nothing, system.chunks[nothing], None, empty, f"not moved: {why}")
        plan, before = result.plan, float(choice.before.mean())
        how = f"{', centred' if plan.centred else ''}{', contrastive' if plan.contrast_steps else ''}"
        how += ", by human questions alone" if by_people else ""
        limit = "" if by_llm else f"theta {result.theta:.2f}, "
        note = (
            f"{len(result.rows)} of {len(system.chunks)} rows moved with {limit}prior {plan.prior:g}{how}; "
            f"held-out questions go from {before:.3f} to {before + choice.gain:.3f}"
        )
        contrast = _by_id(result.displacements, chunks, questions.question_ids[movers.rows])
        return Moved(result.rows, result.vectors, result.record(by_people=by_people), contrast, note)

    def find_lexicon(self, plain: System, moved: Moved | None) -> tuple[System, str]:
        """A candidate: a space with its moved rows and the lexicon that fits them, and the choice in words."""
        served = tried = moved_copy(plain.chunks, moved)
        if moved and moved.record and moved.record.by_people:
            # Validation questions have moved the rows that answer them, so they would find them without a lexicon.
            train = self.questions.in_splits("train")
            tried = moved_copy(plain.chunks, self.apply_record(moved.record, plain, movers=train))
        search, note = self.lexicons.find(plain, served, tried)
        return replace(plain, name=f"{plain.name} + lexicon", chunks=served, lexical=search), note

    def apply_record(
        self,
        record: NudgeRecord,
        plain: System,
        stored: ContrastState | None = None,
        movers: NDArray[np.bool_] | None = None,
    ) -> Moved:
        """Move rows of a space by a record.

        Args:
            record: how.
            plain: the space.
            stored: the contrast state stored with the record; None computes it.
            movers: mask of the questions, shape (q,); None: all whose split moves rows.
        """
        chunks, questions, displacements = self.chunks, self.questions, None
        chosen = questions.deciding_mask(record.by_people) & (questions.moves if movers is None else movers)
        asking = judged(questions, chunks, chosen, moving=True)
        if stored:  # displacements of the chunks that are still there
            rows = chunks.rows(stored.chunk_ids)
            displacements = Displacements(rows[rows >= 0], stored.vectors[rows >= 0])
        asked, device = asking.with_vectors(plain.questions), pick_device(self._settings.device)
        moved = move_rows(plain.chunks, asked, record, displacements=displacements, device=device)
        contrast = stored or _by_id(moved.displacements, chunks, questions.question_ids[asking.rows])
        return Moved(moved.rows, moved.vectors, record, contrast)


def record_of(generation: Generation) -> NudgeRecord | None:
    """The stored nudge record of a generation; None where its rows were not moved."""
    return NudgeRecord.from_json(generation.nudge) if generation.nudge else None


def lexicon_record_of(generation: Generation) -> LexiconRecord | None:
    """The stored record of a generation's lexicon; None where it has none."""
    return LexiconRecord.from_json(generation.lexicon) if generation.lexicon else None


def make_generation(
    context: Context, space: Space, topic_run_id: int | None, record: NudgeRecord | None, lexicon: LexiconRecord | None
) -> Generation:
    """Make a generation in state ``building``; vectors of NUDGE-M are not of unit length, so need the inner product."""
    return GenerationRepository(context.conn).create(
        run_id=context.run_id, space=space, topic_run_id=topic_run_id, nudge=record.to_json() if record else None,
        metric="inner_product" if record and record.variant == "M" else "cosine",
        lexicon=lexicon.to_json() if lexicon else None,
    )  # fmt: skip


def moved_copy(vectors: Float32Array, moved: Moved | None) -> Float32Array:
    """Vectors, float32, shape (n, d), with moved rows in place; the same array where no row moved."""
    if moved is None or not len(moved.rows):
        return vectors
    copy = vectors.copy()
    copy[moved.rows] = moved.vectors
    return copy


def with_late(conn: Connection, active: Generation, rows: TouchedRows, record: NudgeRecord) -> Displacements:
    """Displacements of touched rows by chunk id; rows that came after the record was chosen get theirs, and keep it."""
    repository, plan = ContrastRepository(conn), record.plan
    known = Displacements(*repository.of_chunks(active, rows.chunk_ids))
    asks = np.flatnonzero(~np.isin(rows.chunk_ids[rows.answers], known.rows))  # questions of rows without one
    if not plan.contrast_steps or not len(asks):
        return known
    pairs = np.column_stack([asks, rows.answers[asks]])
    places, G = gradients(rows.questions, pairs, plan.weights(rows.shares[asks]), centre=record.centre)
    late = rows.chunk_ids[places]
    pushing = repository.pushing(active, late)
    found, _ = displace(
        pushing.vectors, rows.base[places], pushing.pairs, pushing.weights, G, prior=plan.prior,
        steps=plan.contrast_steps, log_sum_exp=pushing.levels,
    )  # fmt: skip
    repository.add(active, late, found)
    return known.and_of(late, found)


def _by_id(displacements: Displacements, chunks: ChunkTable, question_ids: Int64Array) -> ContrastState:
    """Displacements, and levels of the questions that moved rows, by ids."""
    levels, chunk_ids = displacements.levels, chunks.chunk_ids[displacements.rows]
    asked = question_ids[levels.questions]
    return ContrastState(chunk_ids, displacements.vectors, asked, levels.log_sum_exp, levels.weights)


def _plans(train: QuestionSet, plans: Sequence[Plan]) -> Sequence[Plan]:
    pairs = len(train.positives) * len(np.unique(np.concatenate([np.empty(0, np.int64), *train.positives])))
    return [plan for plan in plans if not plan.contrast_steps or pairs <= CONTRAST_PAIRS] or [WRITTEN_PLAN_OF_MANY]
