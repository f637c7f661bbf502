"""Splits an English sentence into noun phrases, verbs, prepositions and boundaries, for the extractive map writer.

There is no parser and no dictionary of parts of speech: closed classes of words (auxiliaries, prepositions, pronouns),
lists of verbs, and endings decide, each beside its neighbours. A word that nothing marks as a verb is taken for a part
of a noun phrase, so facts are missed rather than invented.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from heal_tasks.questions.extractive.words import word_list

Kind = Literal["noun", "verb", "link", "infinitive", "preposition", "relative", "conjunction", "comma", "boundary"]
"""verb: finite; link: a form in -ing or -ed about the noun or preposition before it ("files containing", "by sending");
infinitive: after "to", which is left out; relative: "which", "that" or "who"."""

MOST_WORDS = 6
"""Words of a noun phrase; of a longer one the last are kept."""

_TOKEN = re.compile(r"[\"“”‘(\[{<]|[^\s\"“”‘(\[{<]+")
_CLOSING = ".,;:!?)]}>\"”’'…"
_MARKUP = re.compile(r"://|[\[\]{}<>|=]|^[\W_]+$")

_DETERMINERS = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "its", "their", "his", "her", "our", "your", "my", "any",
    "some", "each", "every", "such", "both", "all",
})  # fmt: skip
_PRONOUNS = frozenset({
    "it", "they", "he", "she", "we", "i", "you", "them", "him", "us", "me", "itself", "themselves", "there", "one",
    "ones",
})  # fmt: skip
_POINTING = frozenset({"this", "that", "these", "those", "all", "both", "each", "some", "such", "any"})
_RELATIVES = frozenset({"which", "who", "that"})
_MODALS = frozenset({
    "can", "may", "might", "could", "should", "must", "will", "would", "shall", "cannot", "do", "does", "did",
})  # fmt: skip
_BE = frozenset({"is", "are", "was", "were", "be", "been", "being", "am"})
_HAVE = frozenset({"has", "have", "had", "having"})
_CONJUNCTIONS = frozenset({"and", "or", "nor", "and/or", "&"})
_NEGATIONS = frozenset({"not", "never"})
_PREPOSITIONS = frozenset({
    "of", "in", "on", "at", "by", "for", "from", "with", "into", "onto", "over", "under", "through", "via", "within",
    "without", "between", "among", "against", "during", "after", "before", "upon", "across", "toward", "towards",
    "to", "as", "per", "despite", "like", "about", "above", "below", "around", "inside", "outside", "including",
})  # fmt: skip
_BOUNDARIES = frozenset({
    "if", "when", "while", "although", "though", "unless", "whether", "where", "whereas", "how", "what", "why", "but",
    "so", "then", "than", "because", "until", "since",
})  # fmt: skip
_ADVERBS = frozenset({
    "also", "often", "however", "thus", "therefore", "still", "already", "always", "even", "just", "only", "either",
    "again", "instead", "very", "more", "most", "less", "too", "well", "further", "furthermore", "moreover", "here",
    "respectively",
})  # fmt: skip
_NOT_ADVERBS = frozenset({
    "family", "assembly", "anomaly", "reply", "supply", "apply", "early", "daily", "likely", "monthly", "yearly",
    "weekly", "rely",
})  # fmt: skip
_NOT_PARTICIPLES = frozenset({
    "need", "speed", "seed", "feed", "embed", "exceed", "proceed", "succeed", "breed", "indeed", "hundred",
})  # fmt: skip
_NOUNS_TOO = frozenset({
    "result", "support", "influence", "increase", "decrease", "lead", "need", "display", "yield", "register", "lack",
    "use", "abuse", "exploit", "target", "leverage", "cause", "draw", "drive", "play", "attempt", "gain", "mean",
})  # fmt: skip
_BEFORE_INFINITIVES = frozenset({
    "attempt", "use", "seek", "try", "design", "need", "fail", "tend", "appear", "continue", "begin", "choose",
    "enable", "allow", "require", "intend", "know", "configure", "find", "show", "want",
})  # fmt: skip
_ENDINGS = (
    ("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("d", ""), ("ing", ""), ("ing", "e"),
)  # fmt: skip
_AUXILIARIES = _MODALS | _BE | _HAVE
_CLOSED = frozenset().union(
    _DETERMINERS, _PRONOUNS, _RELATIVES, _AUXILIARIES, _CONJUNCTIONS, _NEGATIONS, _PREPOSITIONS, _BOUNDARIES
)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of a sentence; its words as they stand there, without determiners, auxiliaries and adverbs."""

    kind: Kind
    text: str = ""


def phrases(sentence: str) -> list[Phrase]:
    """The parts of a sentence without markup, in order."""
    tokens, found, at = list(_tokens(sentence)), list[Phrase](), 0
    while at < len(tokens):
        size, phrase = _phrase(tokens, at, found)
        at += size
        if phrase:
            found.append(phrase)
    return found


def base_form(word: str) -> str | None:
    """The listed verb of which a lower-case word is a form."""
    candidates = [word]
    for ending, instead in _ENDINGS:
        if word.endswith(ending):
            candidates.append(word[: -len(ending)] + instead)
    if doubled := re.fullmatch(r"(\w+?)(\w)\2(?:ed|ing)", word):
        candidates.append(doubled[1] + doubled[2])
    lists = [word_list(name) for name in ("assertions", "imperatives", "verbs")]
    return next((verb for verb in candidates if any(verb in listed for listed in lists)), None)


def _tokens(sentence: str) -> Iterator[str]:
    """Words with the signs inside them, and the signs around them one by one."""
    for match in _TOKEN.finditer(sentence):
        token = match[0].rstrip(_CLOSING)
        yield from (part for part in (token, *match[0][len(token) :]) if part)


def _phrase(tokens: Sequence[str], at: int, found: Sequence[Phrase]) -> tuple[int, Phrase | None]:
    """Number of tokens of the part that begins here, and the part; None for words that are left out."""
    word = _word(tokens, at)
    if not word:
        return 1, Phrase("comma" if tokens[at] == "," else "boundary")
    if verb := _helped(tokens, at) if word in _AUXILIARIES else _verb(tokens, at, found):
        return verb
    if word in _RELATIVES and found and found[-1].kind in ("noun", "comma") and _verbal(tokens, at + 1):
        return 1, Phrase("relative")
    if word in _CONJUNCTIONS:
        return 1, Phrase("conjunction")
    if word in _PREPOSITIONS:
        return 1, Phrase("preposition", tokens[at])
    if word in _BOUNDARIES | _PRONOUNS or (word in _POINTING and not _starts_noun(tokens, at + 1)):
        return 1, Phrase("boundary")
    if word in _CLOSED or _adverb(word):
        return 1, None
    size = _noun_size(tokens, at)
    if size == 1 and _participle(word):
        return 1, None
    return size, Phrase("noun", " ".join(tokens[max(at, at + size - MOST_WORDS) : at + size]))


def _helped(tokens: Sequence[str], at: int) -> tuple[int, Phrase | None]:
    """A verb that begins with an auxiliary; a form of be or have without another verb is the verb itself."""
    end, helper, negated = at, "", False
    while (word := _word(tokens, end)) and (word in _AUXILIARIES | _NEGATIONS or _adverb(word)):
        helper = word if word in _AUXILIARIES else helper
        negated |= word in _NEGATIONS or word == "cannot"
        end += 1
    if helper in _MODALS:
        fits = word.isalpha() and word not in _CLOSED
    else:
        fits = _participle(word) or (helper in _BE and word.endswith("ing") and base_form(word) is not None)
    if fits:
        return end + 1 - at, Phrase("verb", f"not {tokens[end]}" if negated else tokens[end])
    alone = f"{helper} not" if negated else helper
    return end - at, None if helper in _MODALS else Phrase("verb", alone)


def _verb(tokens: Sequence[str], at: int, found: Sequence[Phrase]) -> tuple[int, Phrase] | None:
    """A verb without auxiliary; None where none surely begins here."""
    word, following = _word(tokens, at), _word(tokens, at + 1)
    before: Kind = found[-1].kind if found else "boundary"
    if word == "to":
        joins = before in ("verb", "link") and base_form(found[-1].text.casefold()) in _BEFORE_INFINITIVES
        opens = _word(tokens, at + 2) in _DETERMINERS or base_form(following) == following
        fits = following.isalpha() and following not in _CLOSED and (joins or opens)
        return (2, Phrase("infinitive", tokens[at + 1])) if fits else None
    if at and _word(tokens, at - 1) in _DETERMINERS - {"that"}:
        return None
    base = base_form(word)
    if word.endswith("ing"):
        fits = base is not None and before not in ("conjunction", "relative") and _starts_noun(tokens, at + 1)
        return (1, Phrase("link", tokens[at])) if fits else None
    if before == "boundary" and at and _word(tokens, at - 1) in _PRONOUNS and (base or _participle(word)):
        return 1, Phrase("verb", tokens[at])
    if _participle(word):
        if before == "relative":
            return 1, Phrase("verb", tokens[at])
        finite = following in _DETERMINERS or following[:1].isdigit() or _adverb(_word(tokens, at - 1))
        if before != "noun" or not (finite or not following or following in _PREPOSITIONS):
            return None
        return 1, Phrase("verb" if finite else "link", tokens[at])
    if base is None or not _starts_noun(tokens, at + 1, prepositions=before == "relative"):
        return None
    opens, third = following in _DETERMINERS, word != base
    if not found:
        sure = at == 0 and (opens or base in word_list("imperatives"))
    elif before == "relative":
        sure = True
    elif before == "noun":
        last = found[-1].text.casefold()
        plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
        listed = base not in _NOUNS_TOO and (base in word_list("assertions") or base in word_list("verbs"))
        agrees = plural != third and (opens or listed or (third and _adverb(_word(tokens, at - 1))))
        sure = agrees or (opens and listed)
    else:
        sure = before == "conjunction" and opens
    return (1, Phrase("verb", tokens[at])) if sure else None


def _noun_size(tokens: Sequence[str], at: int) -> int:
    """Number of tokens of a noun phrase; "of" and its noun belong to it while it stays short."""
    end = _noun_end(tokens, at + 1)
    if _word(tokens, end) == "of" and _starts_noun(tokens, end + 1):
        start = end + 1 + (_word(tokens, end + 1) in _DETERMINERS)
        last = _noun_end(tokens, start)
        if start < last <= at + MOST_WORDS and _word(tokens, last - 1) != "of":
            return last - at
    return end - at


def _noun_end(tokens: Sequence[str], at: int) -> int:
    while (word := _word(tokens, at)) and not (word in _CLOSED or _adverb(word)):
        if _verb(tokens, at, [Phrase("noun", tokens[at - 1])]):
            break
        at += 1
    return at


def _starts_noun(tokens: Sequence[str], at: int, *, prepositions: bool = False) -> bool:
    word = _word(tokens, at)
    if word in _PREPOSITIONS:
        return prepositions
    return bool(word) and (word in _DETERMINERS or word not in _CLOSED)


def _verbal(tokens: Sequence[str], at: int) -> bool:
    word = _word(tokens, at)
    return word in _AUXILIARIES or _adverb(word) or _participle(word) or base_form(word) is not None


def _word(tokens: Sequence[str], at: int) -> str:
    """A token in lower case; empty beyond the end, and for a sign or a piece of markup."""
    return "" if not 0 <= at < len(tokens) or _MARKUP.search(tokens[at]) else tokens[at].casefold()


def _participle(word: str) -> bool:
    regular = word.endswith("ed") and len(word) > 3 and word not in _NOT_PARTICIPLES and word.replace("-", "").isalpha()
    return regular or word in word_list("participles")


def _adverb(word: str) -> bool:
    return word in _ADVERBS or (word.endswith("ly") and len(word) > 4 and word not in _NOT_ADVERBS)
