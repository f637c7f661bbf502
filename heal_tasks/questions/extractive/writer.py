"""Generates questions without a language model: keywords, claims and questions made from a chunk's own sentences.

It is the default where no endpoint is set. Words are weighted by their frequency in the chunk, their rarity in English
and their rarity in the corpus: "adversary" is rare in English, but does not tell one attack technique from another.
Rarity in the chunk's topic instead of the corpus is no better: a document's six heaviest words cover .31, .15 and .25
of the words of human questions about it (SciFact, NFCorpus, ATT&CK; without test questions), by topic .30, .15, .24.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import dropwhile, groupby, islice

from heal_tasks.core.ids import fingerprint
from heal_tasks.core.types import QuestionKind
from heal_tasks.questions.extractive import any_language
from heal_tasks.questions.extractive.prose import Sentence, sentences
from heal_tasks.questions.extractive.rewrite import as_claim, as_question, reduced
from heal_tasks.questions.extractive.words import (
    content_words,
    is_content,
    rarity,
    rarity_among,
    singular,
    word_list,
    words,
)
from heal_tasks.questions.filters import check_drafts
from heal_tasks.questions.writer import Answered, Author, ChunkToAsk, Draft, Drafts

MODEL = "extractive-3"

_ANSWER_WORDS = 40
_MOST_PHRASE_WORDS = 3
_MOST_KEYWORDS = 6
_FEWEST_KEYWORDS = 3
_TELLING = 0.6
_NOUNS = {"result", "support", "influence", "increase", "decrease", "lead"}
_CODE_TITLE = re.compile(r"[A-Za-z_][\w.]*\.\w+(?:\(|$)|[A-Za-z_]\w*\(")
_TOKEN = re.compile(r"[^\W_]+(?:[_'’\-.][^\W_]+)*|[^\s\w]")


class ExtractiveWriter:
    """Generates questions from the chunk's sentences, without network and without randomness.

    ``background`` reads texts of the corpus before the first chunk. It is not part of the prompt hash, or every new
    document would cause new questions about all others.
    """

    def __init__(self, questions_per_chunk: int, background: Callable[[], Iterable[str]] = tuple) -> None:
        self.author = Author("extractive", MODEL, fingerprint([MODEL, questions_per_chunk]))
        self._questions_per_chunk, self._background = questions_per_chunk, background

    @cached_property
    def _rarity_here(self) -> Callable[[str], float]:
        return rarity_among(self._background())

    def write(self, chunks: Iterable[ChunkToAsk]) -> Iterator[Answered[Drafts]]:
        """Generate questions, in the chunks' order."""
        for chunk in chunks:
            yield Answered(chunk, tuple(islice(_drafts(chunk, self._rarity_here), self._questions_per_chunk)))


class _Weights:
    """Weights of a chunk's words, phrases and sentences; the words of ``name`` have weight 0."""

    def __init__(self, found: Sequence[Sentence], name: frozenset[str], rarity_here: Callable[[str], float]) -> None:
        self.name, self._rarity_here = name, rarity_here
        self._counts = Counter(singular(word) for sentence in found for word in content_words(sentence.text))

    def word(self, word: str) -> float:
        """Product of frequency in the chunk, rarity in English and rarity in the corpus."""
        known = singular(word)
        if known in self.name:
            return 0.0
        return rarity(word) * self._rarity_here(word) * (1 + math.log(max(self._counts[known], 1)))

    def phrase(self, phrase: tuple[str, ...]) -> float:
        """Sum over its words, divided by the square root of their number."""
        return sum(self.word(word) for word in phrase) / math.sqrt(len(phrase))

    def sentence(self, sentence: Sentence) -> float:
        """Mean over its content words; more for the first sentence, less for long and short ones."""
        found = content_words(sentence.text)
        mean = sum(self.word(word) for word in found) / (len(found) + 3)
        return mean * (1.15 if sentence.first else 1.0) * (1.0 if 5 <= len(found) <= 25 else 0.7)


def _drafts(chunk: ChunkToAsk, rarity_here: Callable[[str], float]) -> Iterator[Draft]:
    """Yield a question, keywords, a claim, then the next best of each, from different sentences if possible."""
    found = sentences(chunk.text)
    weights = _Weights(found, _name_words(chunk.title), rarity_here)
    ranked = sorted(found, key=lambda sentence: -weights.sentence(sentence))
    writers = _writers(chunk, weights)
    drafts = (
        Draft(kind, text, _answer(sentence), sentence.evidence)
        for kind, write in writers.items()
        for sentence in ranked
        if (text := write(sentence))
    )
    kept = [draft for draft, reason in check_drafts(drafts, chunk) if reason is None]
    left = [[draft for draft in kept if draft.kind == kind] for kind in writers]
    used: Counter[str] = Counter()
    while any(left):
        fewest = min(used[draft.evidence] for queue in left for draft in queue)
        for queue in left:
            fresh = next((draft for draft in queue if used[draft.evidence] == fewest), None)
            if fresh is not None:
                queue.remove(fresh)
                used[fresh.evidence] += 1
                yield fresh


def _writers(chunk: ChunkToAsk, weights: _Weights) -> dict[QuestionKind, Callable[[Sentence], str | None]]:
    """Functions that make a question, keywords or a claim of a sentence, or None; questions of English ones only."""
    chunk_is_english = any_language.is_english(chunk.text)

    def english(sentence: Sentence) -> bool:
        return chunk_is_english and any_language.mostly_latin(sentence.text)

    def question(sentence: Sentence) -> str | None:
        usable = english(sentence) and (sentence.complete or sentence.first)
        return as_question(reduced(sentence.text)) if usable else None

    def keywords(sentence: Sentence) -> str | None:
        if english(sentence):
            return _keywords(sentence.text, chunk.title, weights)
        return any_language.keywords(sentence.text, weights.phrase)

    def claim(sentence: Sentence) -> str | None:
        if english(sentence):
            return as_claim(reduced(sentence.text)) if sentence.complete else None
        return (
            any_language.as_claim(sentence.text) if sentence.complete or any_language.endless(sentence.text) else None
        )

    return {"question": question, "keyword": keywords, "claim": claim}


def _keywords(sentence: str, title: str, weights: _Weights) -> str | None:
    """The heaviest phrases of a sentence, in their order in it, then one from the title."""
    chosen: list[tuple[str, ...]] = []
    taken: set[str] = set()
    phrases = _phrases(sentence)
    for phrase in sorted(phrases, key=lambda phrase: -weights.phrase(phrase)):
        fresh = {singular(word) for word in phrase}
        repeats = len(fresh) < len(phrase) or fresh & taken
        if len(taken) + len(phrase) <= _MOST_KEYWORDS and not repeats and not fresh & weights.name:
            chosen.append(phrase)
            taken |= fresh
    chosen.sort(key=phrases.index)
    about = "" if weights.name else title
    for phrase in sorted(_phrases(about), key=lambda phrase: -weights.phrase(phrase))[:1]:
        fresh = {singular(word) for word in phrase}
        if len(taken) <= _FEWEST_KEYWORDS and not fresh & taken:
            chosen.append(phrase)
            taken |= fresh
    titled = {singular(word) for word in words(title)}
    telling = sum(rarity(word) > _TELLING for word in taken - titled)
    if len(taken) < _FEWEST_KEYWORDS or telling < 2:
        return None
    return " ".join(word for phrase in chosen for word in phrase)


def _phrases(text: str) -> list[tuple[str, ...]]:
    """Noun phrases, mostly: runs of one to three content words between function words, verbs and punctuation."""
    found: list[tuple[str, ...]] = []
    for nouns, run in groupby(map(str.casefold, _TOKEN.findall(text)), key=_may_be_noun):
        phrase = tuple(dropwhile(lambda word: rarity(word) < _TELLING, run))[-_MOST_PHRASE_WORDS:]
        if nouns and phrase and phrase not in found:
            found.append(phrase)
    return found


def _may_be_noun(token: str) -> bool:
    """False for function words, participles, adverbs, verbs in the third person, dotted names and punctuation."""
    if not token[0].isalnum() or not is_content(token) or token.endswith(("ly", "ed")):
        return False
    dotted = "." in token and not any(letter.isdigit() for letter in token)
    verb = token.removesuffix("s")
    return not dotted and verb != "return" and (verb not in word_list("assertions") or verb in _NOUNS)


def _name_words(title: str) -> frozenset[str]:
    """The words of a title that is a name in code, which somebody who asks does not know yet."""
    match = _CODE_TITLE.match(title.strip())
    if match is None:
        return frozenset()
    name = title.split("(")[0].strip()
    parts = [name, *name.split(".")]
    return frozenset(singular(word) for part in parts for word in [part.casefold(), *words(part)] if rarity(word) > 0.9)


def _answer(sentence: Sentence) -> str:
    parts = sentence.text.split()
    return " ".join(parts[:_ANSWER_WORDS]) + (" …" if len(parts) > _ANSWER_WORDS else "")
