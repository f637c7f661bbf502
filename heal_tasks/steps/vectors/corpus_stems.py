"""The stems of a corpus and of its questions, numbered, for lexicons to be fitted to and searched with."""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.lexicon.lexicon import Lexicon
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.search import LexicalSearch, Words
from heal_tasks.lexicon.terms import count_stems
from heal_tasks.steps.quality.scoring import AnswerKey, judged
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable
from heal_tasks.store.generations.lexicon import LexiconRepository, StemCounts, StemDictionary, StoredLexicon

Rows = TypeVar("Rows", NDArray[Any], csr_array)

MOST_QUESTIONS = 100_000
"""Answered questions that a lexicon is fitted to, at most."""


def teaching_key(questions: QuestionTable, chunks: ChunkTable, chosen: NDArray[np.bool_]) -> AnswerKey:
    """The questions among some, mask of shape (q,), that a lexicon is fitted to, with the chunks that they move."""
    return judged(questions, chunks, chosen, moving=True).first(MOST_QUESTIONS)


class CorpusStems:
    """The stems of all live chunks, and of the questions that judge or that a person or a language model wrote.

    Args:
        public: True for the stems of chunks alone that everybody may read; others then count where they have these.
    """

    def __init__(self, conn: Connection, chunks: ChunkTable, questions: QuestionTable, *, public: bool = False) -> None:
        repository, dictionary = LexiconRepository(conn), StemDictionary()
        self._dictionary = dictionary
        shown = chunks.public if public else np.ones(len(chunks.chunk_ids), dtype=bool)
        found = repository.chunk_stems(dictionary, chunks.chunk_ids[shown])
        if not shown.all():
            hidden = repository.chunk_stems(dictionary, chunks.chunk_ids[~shown], known=True)
            found = StemCounts(
                np.concatenate([np.flatnonzero(shown)[found.texts], np.flatnonzero(~shown)[hidden.texts]]),
                np.concatenate([found.stems, hidden.stems]),
                np.concatenate([found.counts, hidden.counts]),
            )
        self.fitted_questions = np.isin(questions.chunk_ids, chunks.chunk_ids[shown])
        for by_people in (True, False):
            teaching = self.fitted_questions & questions.teaching_mask(by_people)
            rows = teaching_key(questions, chunks, teaching).rows
            dictionary.add(repository.asked_stems(questions.question_ids[rows]))
        asked = np.flatnonzero(~questions.extracted | ~questions.in_splits("train"))
        of_questions = repository.question_stems(dictionary, questions.question_ids[asked])
        self.stems = dictionary.stems
        self.chunks = stem_matrix(found, len(chunks.chunk_ids), len(dictionary))
        at_row = replace(of_questions, texts=asked[of_questions.texts])
        self.questions = stem_matrix(at_row, len(questions.question_ids), len(dictionary))
        self._words = Words.of(self.chunks)
        self._fitted = None if shown.all() else np.flatnonzero(shown)
        self.fitted_chunks = self.fitted(self.chunks)

    def fitted(self, rows: Rows) -> Rows:
        """Of an array with a row for every chunk those rows that a lexicon is fitted to."""
        return rows if self._fitted is None else rows[self._fitted]

    def search(self, record: LexiconRecord, lexicon: Lexicon) -> LexicalSearch:
        """All questions, ready to be searched by a lexicon."""
        return LexicalSearch(record, lexicon, self._words, self.questions, lexicon.question_vectors(self.questions))

    def lexicon_of(self, stored: StoredLexicon) -> Lexicon:
        """A stored lexicon over the stems of this corpus; those that it lacks have no vector."""
        return lexicon_over(self._dictionary, stored)

    def stored(self, lexicon: Lexicon) -> StoredLexicon:
        """A lexicon over the stems of this corpus, to be stored."""
        return StoredLexicon(self.stems, lexicon.chunks, lexicon.weights, lexicon.vectors)


def lexicon_over(dictionary: StemDictionary, stored: StoredLexicon) -> Lexicon:
    """A stored lexicon over the stems of a dictionary; those that it lacks have neither weight nor vector."""
    place, size = dictionary.numbers_of(stored.stems), len(dictionary)
    kept = place >= 0
    lexicon = Lexicon(
        np.zeros(size, np.int64), np.zeros(size, np.float32), np.zeros((size, stored.vectors.shape[1]), np.float32)
    )
    lexicon.chunks[place[kept]], lexicon.weights[place[kept]] = stored.chunks[kept], stored.weights[kept]
    lexicon.vectors[place[kept]] = stored.vectors[kept]
    return lexicon


def stem_matrix(found: StemCounts, texts: int, stems: int) -> csr_array:
    """Stems that were read, as ``count_stems`` arranges them."""
    return count_stems(found.texts, found.stems, found.counts, (texts, stems))
