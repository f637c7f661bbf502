"""Keywords and claims from texts in other languages than English, of which no grammar is known here.

Keywords are words or phrases of a sentence, a claim is a sentence or one of its clauses as it stands. There are no
questions: every template would glue English words to them. ``wordlists/english.txt`` and ``foreign.txt`` have words
that are common in English, and in other languages with Latin letters, and seldom or never in the others.
"""

import re
from collections.abc import Callable

from heal_tasks.core import scripts
from heal_tasks.questions.extractive.words import is_content, spelled_words, word_count, word_list, words

_MOST_PHRASES = 4
_MOST_KEYWORDS = 8
_MOST_CLAIM_WORDS = 30
_FEWEST_CLAIM_WORDS = 5
_LONGEST_PHRASE = 16
"""Letters of a phrase in a script without blanks: a longer one is most of a sentence."""
_LONG = 8
"""Function words are short; this length and more count alike."""
_MOST_FOREIGN_LETTERS = 0.3

# Words of one letter that are no part of longer ones, or seldom; in Japanese all hiragana between kanji and katakana.
_PARTICLES = re.compile("[的了是在和与與及或但从從把被这這那此该該之並并]")
_HIRAGANA, _KANA = re.compile("[\u3041-\u3096]+"), re.compile("[\u3041-\u30fa]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_RUN = re.compile(f"(?:[{scripts.WITHOUT_BLANKS}][{scripts.MARKS}]*)+")
_ENDLESS = re.compile("[\u0e00-\u0eff]")
_CLAUSE = re.compile(r"[,;:،؛，；：、]\s*|\s+[–—-]\s+")
_CODE = re.compile(r"[=\[\]{}\\<>$|~^]|->|::|__|\w\(")


def is_english(text: str) -> bool:
    """False for a text mostly in other scripts than Latin, or with more common words of other languages than English.

    A text that shows neither counts as English. Words with accented letters count as words of other languages.
    """
    if not mostly_latin(text):
        return False
    english = foreign = 0
    for word in words(text):
        english += word in word_list("english")
        foreign += word in word_list("foreign") or any("\u00df" <= letter <= "\u024f" for letter in word)
    return english >= foreign


def mostly_latin(text: str) -> bool:
    """True if few of a text's letters are of other scripts than Latin."""
    if text.isascii():
        return True
    letters = [letter for letter in text if letter.isalpha()]
    other = sum(letter > "\u024f" and not "\u1e00" <= letter <= "\u1eff" for letter in letters)
    return other <= _MOST_FOREIGN_LETTERS * len(letters)


def endless(sentence: str) -> bool:
    """True for Thai and Lao, which have no mark at the end of a sentence."""
    return _ENDLESS.search(sentence) is not None


def keywords(sentence: str, weight: Callable[[tuple[str, ...]], float]) -> str | None:
    """The heaviest words and phrases of a sentence in their order in it; None if it has too few.

    Args:
        sentence: without markup.
        weight: weight of a phrase, by its words as ``words`` gives them.
    """
    found = _phrases(sentence)
    chosen: list[str] = []
    for phrase in sorted(found, key=lambda phrase: -weight(tuple(words(phrase))) * min(len(phrase), _LONG)):
        if len(chosen) < _MOST_PHRASES and word_count(" ".join([*chosen, phrase])) <= _MOST_KEYWORDS:
            chosen.append(phrase)
    chosen.sort(key=found.index)
    text = " ".join(chosen)
    return text if len(words(text)) > 1 else None


def as_claim(sentence: str) -> str | None:
    """A sentence as it stands if it is neither long nor short, or the longest of its clauses that is neither."""
    if _CODE.search(sentence):
        return None
    parts = [sentence, *sorted(_CLAUSE.split(sentence), key=len, reverse=True)]
    return next((part.strip() for part in parts if _FEWEST_CLAIM_WORDS <= word_count(part) <= _MOST_CLAIM_WORDS), None)


def _phrases(sentence: str) -> list[str]:
    """Words of three letters or more (two in Korean), and phrases between particles in scripts without blanks."""
    found = dict[str, str]()
    particles = _HIRAGANA if _KANA.search(sentence) else _PARTICLES
    for run in sentence.split():
        for text in _RUN.findall(run):
            for part in particles.split(text):
                letters = spelled_words(part)[:_LONGEST_PHRASE]
                if len(letters) > 1:
                    found.setdefault("".join(letters), "".join(letters))
        for word in spelled_words(_RUN.sub(" ", run)):
            known, fewest = word.casefold(), 2 if _HANGUL.match(word) else 3
            if len(word) >= fewest and is_content(known) and known not in word_list("foreign"):
                found.setdefault(known, word)
    return list(found.values())
