"""The systems that a run compares, in memory: vectors of a space as they are, or as NUDGE moves them.

NUDGE counts rows; the store keeps its contrast state by the ids of chunks and questions.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.devices import pick_device
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.calibration import Curve
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.search import LexicalSearch
from heal_tasks.nudge.apply import move_rows
from heal_tasks.nudge.contrast import Displacements
from heal_tasks.nudge.plan import NudgeRecord, Plan
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.quality.scoring import (
    Scores,
    System,
    judged,
    people_decide,
    relevance,
    score,
    unseen_documents,
)
from heal_tasks.steps.vectors.corpus_stems import CorpusStems
from heal_tasks.steps.vectors.lexicons import LexiconFitter
from heal_tasks.steps.vectors.moves import Moved, by_id, find_moves, moved_copy
from heal_tasks.steps.vectors.spaces import Float32Array, Int64Array, in_order, overlay
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.contrast_state import ContrastState
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.lexicon import LexiconRepository
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

LIVE = "live generation"
MOST_JUDGED = 2000
"""Held-out questions that the relevance curves are fitted to, at most."""


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
        stems = CorpusStems(self._conn, self.chunks, self.questions, public=self._settings.public_words)
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
        fitted = self.lexicons.stems.fitted_chunks.shape[0]
        record = replace(record, chunks=fitted, public=self._settings.public_words)
        GenerationRepository(self._conn).set_fields(generation.generation_id, lexicon=record.to_json())
        stored = self.lexicons.stems.stored(lexicon)
        return LexiconRepository(self._conn).write(generation, stored, self.chunks.chunk_ids)

    def find_moves(self, system: System, plan: Plan | None = None) -> Moved:
        """Choose plan and theta on validation questions, then find the moves, as ``moves.find_moves``."""
        return find_moves(self._settings, system, self.chunks, self.questions, plan)

    def find_lexicon(self, plain: System, moved: Moved | None, *, learnt: bool) -> tuple[System, str]:
        """A candidate: a space with its moved rows and the lexicon that fits them, and the choice in words.

        ``learnt`` is True where the space's model was trained on the questions.
        """
        split = self.lexicons.choice_split(learnt=learnt)
        served = tried = moved_copy(plain.chunks, moved)
        if moved and moved.record and moved.record.by_people:
            # The judging questions have moved the rows that answer them, so they would find them without a lexicon.
            tried = moved_copy(plain.chunks, self.apply_record(moved.record, plain, movers=split.fitting))
        search, note = self.lexicons.find(plain, served, tried, split)
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
        contrast = stored or by_id(moved.displacements, chunks, questions.question_ids[asking.rows])
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
