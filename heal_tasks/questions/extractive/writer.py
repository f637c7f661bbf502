"""Questions without a language model: keywords, claims and questions made from a chunk's own sentences.

The default where no endpoint is set, and named as such wherever its questions appear. Words are weighed by how often
they stand in the chunk, how rare they are in English at large, and how rare they are in the corpus: "adversary" is rare
in English, but says nothing about one technique of attack among others. The corpus, not the chunk's own topic: the six
weightiest words of a document hold .31, .15 and .25 of the words that people ask about it with (SciFact, NFCorpus,
ATT&CK; questions not of the test), weighed against its topic .30, .15 and .24.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice

from heal_tasks.core.ids import fingerprint
from heal_tasks.core.types import Progress, silent
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
from heal_tasks.questions.filters import apply_filters
from heal_tasks.questions.writer import ChunkToAsk, Draft, Written

MODEL = "extractive-2"

_PROGRESS_EVERY = 200
_ANSWER_WORDS = 40
_MOST_PHRASE_WORDS = 3
_MOST_KEYWORDS = 6
_FEWEST_KEYWORDS = 3
_TELLING = 0.6
_NOUNS = {"result", "support", "influence", "increase", "decrease", "lead"}
_CODE_TITLE = re.compile(r"[A-Za-z_][\w.]*\.\w+(?:\(|$)|[A-Za-z_]\w*\(")
_TOKEN = re.compile(r"[^\W_]+(?:[_'’\-.][^\W_]+)*|[^\s\w]")


class ExtractiveWriter:
    """Writes questions from the chunk's sentences, without network and without randomness.

    Args:
        questions_per_chunk: most drafts per chunk.
        background: gives texts of the corpus; called before the first chunk. None: English alone is the background.
            It is no part of ``prompt_hash``, or every new document would ask about all others again.
    """

    name = "extractive"

    def __init__(self, questions_per_chunk: int, background: Callable[[], Iterable[str]] | None = None) -> None:
        self.model = MODEL
        self.prompt_hash = fingerprint([MODEL, questions_per_chunk])
        self._questions_per_chunk, self._background = questions_per_chunk, background

    @cached_property
    def _rarity_here(self) -> Callable[[str], float]:
        return rarity if self._background is None else rarity_among(self._background())

    def write(self, chunks: Sequence[ChunkToAsk], progress: Progress = silent) -> Iterator[Written]:
        """Write questions; see :class:`~heal_tasks.questions.writer.Writer`.

        Args:
            chunks: the chunks to ask about.
            progress: receives the number of finished chunks.

        Yields:
            One Written per chunk, in order, without calls; no drafts where no sentence can be used.
        """
        for done, chunk in enumerate(chunks, start=1):
            yield Written(chunk, tuple(islice(_drafts(chunk, self._rarity_here), self._questions_per_chunk)), ())
            if done % _PROGRESS_EVERY == 0 or done == len(chunks):
                progress(done, len(chunks))


class _Worth:
    """What the words of a chunk are worth to find it by.

    Args:
        found: the chunk's sentences.
        name: words that are worth nothing: whoever asks does not know them.
        rarity_here: rarity of a word in the corpus.
    """

    def __init__(self, found: Sequence[Sentence], name: frozenset[str], rarity_here: Callable[[str], float]) -> None:
        self.name, self._rarity_here = name, rarity_here
        self._counts = Counter(singular(word) for sentence in found for word in content_words(sentence.text))

    def word(self, word: str) -> float:
        """By its frequency in the chunk, its rarity in English and its rarity in the corpus."""
        known = singular(word)
        if known in self.name:
            return 0.0
        return rarity(word) * self._rarity_here(word) * (1 + math.log(max(self._counts[known], 1)))

    def phrase(self, phrase: tuple[str, ...]) -> float:
        """Sum over its words, long ones counting less than in proportion."""
        return sum(self.word(word) for word in phrase) / math.sqrt(len(phrase))

    def sentence(self, sentence: Sentence) -> float:
        """Mean worth of its content words, a little more for the first; long and short ones count less."""
        found = content_words(sentence.text)
        mean = sum(self.word(word) for word in found) / (len(found) + 3)
        return mean * (1.15 if sentence.first else 1.0) * (1.0 if 5 <= len(found) <= 25 else 0.7)


def _drafts(chunk: ChunkToAsk, rarity_here: Callable[[str], float]) -> Iterator[Draft]:
    """Drafts in turn: a question, keywords, a claim, then the next best of each, from different sentences if it can."""
    found = sentences(chunk.text)
    worth = _Worth(found, _name_words(chunk.title), rarity_here)
    ranked = sorted(found, key=lambda sentence: -worth.sentence(sentence))
    queues = [
        [draft for sentence in ranked if (draft := _question(sentence))],
        [draft for sentence in ranked if (draft := _keywords(sentence, chunk.title, worth))],
        [draft for sentence in ranked if (draft := _claim(sentence))],
    ]
    kept, _ = apply_filters((draft for queue in queues for draft in queue), chunk)
    left = [[draft for draft in kept if draft.kind == kind] for kind in ("question", "keyword", "claim")]
    used: Counter[str] = Counter()
    while any(left):
        fewest = min(used[draft.evidence] for queue in left for draft in queue)
        for queue in left:
            fresh = next((draft for draft in queue if used[draft.evidence] == fewest), None)
            if fresh is not None:
                queue.remove(fresh)
                used[fresh.evidence] += 1
                yield fresh


def _question(sentence: Sentence) -> Draft | None:
    text = as_question(reduced(sentence.text)) if sentence.complete or sentence.first else None
    return Draft("question", text, _answer(sentence), sentence.evidence) if text else None


def _claim(sentence: Sentence) -> Draft | None:
    text = as_claim(reduced(sentence.text)) if sentence.complete else None
    return Draft("claim", text, _answer(sentence), sentence.evidence) if text else None


def _keywords(sentence: Sentence, title: str, worth: _Worth) -> Draft | None:
    """The weightiest phrases of a sentence, in the order in which they stand, then one from the title."""
    chosen: list[tuple[str, ...]] = []
    taken: set[str] = set()
    phrases = _phrases(sentence.text)
    for phrase in sorted(phrases, key=lambda phrase: -worth.phrase(phrase)):
        fresh = {singular(word) for word in phrase}
        repeats = len(fresh) < len(phrase) or fresh & taken
        if len(taken) + len(phrase) <= _MOST_KEYWORDS and not repeats and not fresh & worth.name:
            chosen.append(phrase)
            taken |= fresh
    chosen.sort(key=phrases.index)
    about = "" if worth.name else title
    for phrase in sorted(_phrases(about), key=lambda phrase: -worth.phrase(phrase))[:1]:
        fresh = {singular(word) for word in phrase}
        if len(taken) < _FEWEST_KEYWORDS + 1 and not fresh & taken and not fresh & worth.name:
            chosen.append(phrase)
            taken |= fresh
    text = " ".join(word for phrase in chosen for word in phrase)
    titled = {singular(word) for word in words(title)}
    telling = sum(rarity(word) > _TELLING for word in taken - titled)
    if len(taken) < _FEWEST_KEYWORDS or telling < 2:
        return None
    return Draft("keyword", text, _answer(sentence), sentence.evidence)


def _phrases(text: str) -> list[tuple[str, ...]]:
    """Runs of one to three content words between function words, verbs and punctuation: noun phrases, mostly."""
    found: list[tuple[str, ...]] = []
    run: list[str] = []
    for token in [*_TOKEN.findall(text), "."]:
        word = token.casefold()
        if token[0].isalnum() and is_content(word) and not _breaks(word):
            run.append(word)
            continue
        while run and rarity(run[0]) < _TELLING:
            run.pop(0)
        if run and tuple(run[-_MOST_PHRASE_WORDS:]) not in found:
            found.append(tuple(run[-_MOST_PHRASE_WORDS:]))
        run = []
    return found


def _breaks(word: str) -> bool:
    """Whether a word surely is no part of a noun phrase: a participle, an adverb, a third person, a dotted name."""
    if (
        word in {"return", "returns"}
        or word.endswith(("ly", "ed"))
        or ("." in word and not any(letter.isdigit() for letter in word))
    ):
        return True
    verb = word[:-1] if word.endswith("s") else word
    return verb in word_list("assertions") and verb not in _NOUNS


def _name_words(title: str) -> frozenset[str]:
    """The words of a title that is the name of something in code: whoever asks does not know them yet."""
    match = _CODE_TITLE.match(title.strip())
    if match is None:
        return frozenset()
    name = title.split("(")[0].strip()
    parts = [name, *name.split(".")]
    return frozenset(singular(word) for part in parts for word in [part.casefold(), *words(part)] if rarity(word) > 0.9)


def _answer(sentence: Sentence) -> str:
    parts = sentence.text.split()
    return " ".join(parts[:_ANSWER_WORDS]) + (" …" if len(parts) > _ANSWER_WORDS else "")
