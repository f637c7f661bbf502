"""Words and how common they are in English at large, so that a chunk can be judged without its corpus.

``wordlists/common.txt`` ranks 2,000 words by the median, over five kinds of text (arXiv abstracts, SciFact abstracts,
ATT&CK techniques, Python reference documentation, README files of Python packages), of the share of texts that
contain them. The median keeps words out that are common in one field only.

``wordlists/function.txt`` is a list of our own because scikit-learn's list of stop words drops words such as "system",
"fire" and "interest", which questions are about.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from importlib.resources import files

# Chinese and Japanese are written without blanks: each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:[_'’\-][^\W_]+)*")
_NUMERIC = "0123456789.,-_'’"
_UNLISTED_RANK = 8000
_FEWEST_TEXTS = 50


def words(text: str) -> list[str]:
    """The words of a text in order, folded to lower case; punctuation separates, hyphens and underscores join."""
    return _WORD.findall(text.casefold())


def content_words(text: str) -> list[str]:
    """The words of a text that carry meaning: no function words, no bare numbers, no single letters."""
    return [word for word in words(text) if is_content(word)]


def is_content(word: str) -> bool:
    """Whether a lower-case word carries meaning of its own."""
    return word not in word_list("function") and bool(word.strip(_NUMERIC)) and (len(word) > 1 or not word.isascii())


def singular(word: str) -> str:
    """A crude common form of singular and plural, for comparing words only."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


@lru_cache(maxsize=100_000)
def rarity(word: str) -> float:
    """How much a word says, in [0, 1]: by Zipf's law the logarithm of its rank stands for that of its frequency.

    Args:
        word: in lower case.

    Returns:
        0 for the most common word, 1 for a word that is not among the 2,000 ranked ones.
    """
    ranks = word_list("common")
    rank = ranks.get(word, ranks.get(singular(word), _UNLISTED_RANK))
    return math.log(rank) / math.log(_UNLISTED_RANK)


def rarity_among(texts: Iterable[str]) -> Callable[[str], float]:
    """How much a word says among texts, in [0, 1]: its inverse document frequency as a share of the largest possible.

    Args:
        texts: of the corpus, or a sample.

    Returns:
        0 for a word that every text has, 1 for one that none has; ``rarity`` where there are too few texts to tell.
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
    """A list of words that comes with this package.

    Args:
        name: of its file, without the suffix ``.txt``.

    Returns:
        Each word with its place in the list, from 1.
    """
    listed = files(__package__).joinpath("wordlists", f"{name}.txt").read_text(encoding="utf-8").split()
    return {word: place for place, word in enumerate(listed, start=1)}
