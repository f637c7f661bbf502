"""Words, and how common they are in English and in a corpus.

``wordlists/common.txt`` ranks 2,000 words by document frequency, the median over five kinds of text (arXiv abstracts,
SciFact abstracts, ATT&CK techniques, Python reference documentation, README files of Python packages). The median keeps
out words that are common in one field only.

``wordlists/function.txt`` is our own because scikit-learn's stop words include "system", "fire" and "interest", which
questions are about.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from importlib.resources import files

from heal_tasks.core import scripts

_WORD = re.compile(r"[^\W_]+(?:[_'’\-][^\W_]+)*")
WITHOUT_BLANKS = re.compile(f"[{scripts.WITHOUT_BLANKS}]")
_NUMERIC = "0123456789.,-_'’"
_UNLISTED_RANK = 8000
_FEWEST_TEXTS = 50


def words(text: str) -> list[str]:
    """The words of a text in order, in lower case; punctuation separates, hyphens and underscores join.

    In scripts without blanks between words each letter with its combining marks is a word.
    """
    return spelled_words(text.casefold())


def spelled_words(text: str) -> list[str]:
    """The words of a text as they are spelled in it."""
    return (_WORD if text.isascii() else _word_in_any_script()).findall(text)


def word_count(text: str) -> int:
    """Number of words of a text, where two letters of a script without blanks make one word."""
    found = words(text)
    return len(found) - sum(WITHOUT_BLANKS.match(word) is not None for word in found) // 2


def content_words(text: str) -> list[str]:
    """The content words of a text in order."""
    return [word for word in words(text) if is_content(word)]


def is_content(word: str) -> bool:
    """True for a lower-case word that is no function word, number or single letter."""
    return word not in word_list("function") and bool(word.strip(_NUMERIC)) and (len(word) > 1 or not word.isascii())


def singular(word: str) -> str:
    """A crude common form of singular and plural, for comparing words only."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


@cache
def _word_in_any_script() -> re.Pattern[str]:
    letter = rf"[^\W_{scripts.WITHOUT_BLANKS}][{scripts.combining()}]*"
    alone = f"[{scripts.WITHOUT_BLANKS}][{scripts.MARKS}]*"
    return re.compile(rf"{alone}|(?:{letter})+(?:[_'’\-](?:{letter})+)*")


@lru_cache(maxsize=100_000)
def rarity(word: str) -> float:
    """Rarity of a lower-case word in English: 0 for the most common one, 1 for one that is not listed.

    By Zipf's law the logarithm of a word's rank is proportional to that of its frequency.
    """
    ranks = word_list("common")
    rank = ranks.get(word, ranks.get(singular(word), _UNLISTED_RANK))
    return math.log(rank) / math.log(_UNLISTED_RANK)


def rarity_among(texts: Iterable[str]) -> Callable[[str], float]:
    """Make a rarity function of a corpus, or a sample: inverse document frequency as a share of the largest possible.

    It is 0 for a word that every text has, 1 for one that none has, and ``rarity`` where there are fewer than 50 texts.
    """
    holders: Counter[str] = Counter()
    n = 0
    for text in texts:
        holders.update({singular(word) for word in content_words(text)})
        n += 1
    if n < _FEWEST_TEXTS:
        return rarity
    return lambda word: 1.0 - math.log(1 + holders[singular(word)]) / math.log(1 + n)


@cache
def word_list(name: str) -> dict[str, int]:
    """Read a packaged list of words, by file name without ``.txt``: each word with its rank, from 1."""
    listed = files(__package__).joinpath("wordlists", f"{name}.txt").read_text(encoding="utf-8").split()
    return {word: place for place, word in enumerate(listed, start=1)}
