"""The lexicon of a candidate: fitted to its vectors, its weights chosen on validation questions."""

from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.ids import bucket
from heal_tasks.core.settings import Settings
from heal_tasks.lexicon.lexicon import MOST_CHUNKS, AnsweredQuestions, Lexicon, fit_lexicon, unit_rows
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.search import LexicalSearch
from heal_tasks.steps.quality.scoring import BY_ENCODER, BY_TEXT, AnswerKey, System, judged, people_decide, quality
from heal_tasks.steps.vectors.corpus_stems import CorpusStems, teaching_key
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable

Float32Array = NDArray[np.float32]
Guard = tuple[AnswerKey, NDArray[np.float64]]
"""Questions, and the nDCG@10 of each that a lexicon is compared with."""

QUESTION_WEIGHTS = (0.3, 0.1, 1.0, 0.0)
"""Weights of an answered human question that validation chooses from, where a chunk has 1; the preferred one first."""
LEXICON_WEIGHTS = (0.75, 0.5, 1.0, 0.25, 0.0)
WORDS_WEIGHTS = (0.1, 0.2, 0.0, 0.3)
LLM_QUESTION_WEIGHT = 0.1
"""Weight of a question by a language model. With NUDGE .1 and .3 gain the same (ATT&CK, human questions of the train
split: .598 to .616 and .618), and .3 costs documents without such questions .021 instead of .007 (bench/RESULTS.md).
Extracted questions have the words of their chunk, so they take no part."""
CHOICE_CHUNKS = 20_000
"""Chunks that the fits see which only choose weights."""
MOST_VALIDATION = 1000
"""Questions that choose the weights of a lexicon, at most."""
LENT = 3
"""Training questions for each one that helps to choose the weights, if fewer than ``MOST_VALIDATION`` human questions
are held out: as many as are missing help, but no more. By five folds of all 805 questions of SciFact a question weight
of 1 gains .005 +- .002 over .3, which its 93 dev queries do not see; on NFCorpus it loses .004 +- .001
(bench/RESULTS.md)."""


class ChoiceSplit(NamedTuple):
    """Human questions while weights are chosen: masks, bool, shape (q,)."""

    judging: NDArray[np.bool_]  # those that the weights are judged by
    fitting: NDArray[np.bool_]  # those that move rows and teach the lexicon while weights are chosen


@dataclass(frozen=True)
class LexiconFitter:
    """Fits lexicons to the vectors of spaces."""

    settings: Settings
    chunks: ChunkTable
    questions: QuestionTable
    stems: CorpusStems

    def fit(self, record: LexiconRecord, plain: Float32Array, served: Float32Array) -> Lexicon:
        """The lexicon that a record describes.

        Args:
            record: how it is fitted.
            plain: vectors of the chunks by the encoder, float32, shape (n, d).
            served: their vectors as NUDGE moved them, or the same array.
        """
        return self._fit(record, plain, served, self.questions.teaching_mask(record.by_people))

    def choice_split(self, *, learnt: bool) -> ChoiceSplit:
        """Divide the human questions into those that choose the weights of a lexicon, and those that it is fitted to.

        ``learnt`` is True where the model was trained on the questions that train: it ranks these too well to judge.
        """
        human, texts = self.questions.human, self.questions.texts
        judging = human & self.questions.in_splits("seen_validation", "unseen_validation")
        fitting = human & self.questions.in_splits("train")
        fitting &= ~np.isin(texts, texts[judging])  # a text may train about one document and validate about another
        missing, trained = MOST_VALIDATION - len(np.unique(texts[judging])), np.unique(texts[fitting]).tolist()
        if learnt or missing <= 0:
            return ChoiceSplit(judging, fitting)
        drawn = sorted(trained, key=lambda text: bucket("lexicon", text, 1 << 30))[: min(missing, len(trained) // LENT)]
        lent = fitting & np.isin(texts, drawn)
        return ChoiceSplit(judging | lent, fitting & ~lent)

    def find(
        self, plain: System, served: Float32Array, tried: Float32Array, split: ChoiceSplit
    ) -> tuple[LexicalSearch, str]:
        """Fit a lexicon to the vectors of a candidate, with the weights that validation supports.

        Human questions choose the weights if enough of them are held out. Generated questions have the words of
        their chunk and would choose too large ones: then the weights are constants, and validation can only refuse.

        Args:
            plain: vectors of the space.
            served: vectors of the chunks as NUDGE moved them, float32, shape (n, d), or the space's own array.
            tried: the same where human questions moved them, but by the fitting ones of the split alone; the judging
                ones choose on these.
            split: the human questions that choose, from ``choice_split``.

        Returns:
            All questions, ready to be searched by the lexicon, and the choice in words.
        """
        by_people = people_decide(self.questions, self.settings)
        guards = self._guards(replace(plain, chunks=tried))
        if by_people:
            record = self._choose(plain, tried, guards, split)
        else:
            record = LexiconRecord(
                question_weight=LLM_QUESTION_WEIGHT if self.questions.teaching_mask(False).any() else 0.0
            )
        record = replace(record, chunks=self.stems.fitted_chunks.shape[0], by_people=by_people)
        search = self.stems.search(record, self.fit(record, plain.chunks, served))
        if not by_people and self._loses(replace(plain, chunks=served, lexical=search), guards):
            record = replace(record, lexicon_weight=0.0)
            search = replace(search, record=record)
        if not self.stems.stems:
            return search, "no lexicon: the texts have no word stems"
        how = "chosen by human questions" if by_people else "by default"
        stems = np.count_nonzero(search.lexicon.weights)
        return search, (
            f"lexicon of {stems} stems: weight {record.lexicon_weight:g} beside the encoder, words "
            f"{record.words_weight:g}, answered questions {record.question_weight:g}, {how}"
        )

    def _choose(self, plain: System, served: Float32Array, guards: list[Guard], split: ChoiceSplit) -> LexiconRecord:
        """The preferred record of those that human validation questions cannot tell from the best, on both paths.

        A set of a hundred questions cannot tell weights apart that differ by .02: the best of them by a hair was
        none, where the test questions gain .03 (SciFact).
        """
        key, train = self._judging(split.judging), split.fitting
        trial, tried = replace(plain, chunks=served), list[tuple[LexicalSearch, NDArray[np.float64]]]()
        documents = self._fit(LexiconRecord(), plain.chunks, served, train, most_chunks=CHOICE_CHUNKS)
        by_text = replace(trial, lexical=self.stems.search(LexiconRecord(), documents))
        text_guards, start = self._guards(by_text, BY_TEXT), documents.vectors
        for targets, weight in product((False,) if served is plain.chunks else (True, False), QUESTION_WEIGHTS):
            record = LexiconRecord(question_weight=weight, served_targets=targets)
            lexicon = documents
            if targets or weight:
                lexicon = self._fit(record, plain.chunks, served, train, start, CHOICE_CHUNKS)
            start, search = lexicon.vectors, self.stems.search(record, lexicon)
            # Searches need the vectors of questions alone; those of a million stems take 1.5 GB for every weight tried.
            search = replace(search, lexicon=replace(lexicon, vectors=lexicon.vectors[:0].copy()))
            by_text = replace(trial, lexical=search)
            if self._loses(by_text, text_guards, BY_TEXT):
                continue
            text = quality(by_text, key, self.chunks, BY_TEXT)
            for lexicon_weight in LEXICON_WEIGHTS:
                search = replace(search, record=replace(record, lexicon_weight=lexicon_weight))
                system = replace(trial, lexical=search)
                if not self._loses(system, guards):
                    tried.append((search, text + quality(system, key, self.chunks)))
        search = tried[_preferred([values for _, values in tried])][0]  # documents alone with weight 0 lose nothing
        words = [replace(search, record=replace(search.record, words_weight=weight)) for weight in WORDS_WEIGHTS]
        text_values = [quality(replace(trial, lexical=item), key, self.chunks, BY_TEXT) for item in words]
        return words[_preferred(text_values)].record

    def _guards(self, system: System, path: str = BY_ENCODER) -> list[Guard]:
        """Validation questions about documents that took no part, and the quality that a lexicon has to keep."""
        unseen = self.questions.in_splits("unseen_validation")
        keys = [self._judging(unseen & (self.questions.human == human)) for human in (True, False)]
        least = self.settings.gate_min_questions
        return [(key, quality(system, key, self.chunks, path)) for key in keys if len(key.rows) >= least]

    def _loses(self, system: System, guards: list[Guard], path: str = BY_ENCODER) -> bool:
        """True if a set falls by more than the tolerated loss and a standard error."""
        changes = [quality(system, key, self.chunks, path) - before for key, before in guards]
        return any(change.mean() + _standard_error(change) < -self.settings.gate_epsilon for change in changes)

    def _judging(self, chosen: NDArray[np.bool_]) -> AnswerKey:
        return judged(self.questions, self.chunks, chosen).first(MOST_VALIDATION)

    def _fit(
        self,
        record: LexiconRecord,
        plain: Float32Array,
        served: Float32Array,
        asked: NDArray[np.bool_],
        start: Float32Array | None = None,
        most_chunks: int = MOST_CHUNKS,
    ) -> Lexicon:
        asked = asked & self.stems.fitted_questions
        answered, key = None, teaching_key(self.questions, self.chunks, asked)
        if record.question_weight > 0 and len(key.rows):
            answers = np.stack([served[rows].sum(axis=0) for rows in key.positives])
            answered = AnsweredQuestions(csr_array(self.stems.questions[key.rows]), unit_rows(answers))
        targets = self.stems.fitted(served if record.served_targets else plain)
        return fit_lexicon(
            self.stems.fitted_chunks, targets, ridge=record.ridge, questions=answered,
            question_weight=record.question_weight, start=start, most_chunks=most_chunks,
        )  # fmt: skip


def _preferred(values: list[NDArray[np.float64]]) -> int:
    """The first of those within one standard error of the best (Breiman et al. 1984), from values per question."""
    best = max(values, key=lambda item: float(item.mean()))
    return next(number for number, item in enumerate(values) if (best - item).mean() <= _standard_error(best - item))


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std() / max(len(values), 1) ** 0.5)
