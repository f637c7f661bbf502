"""Filters that a draft must pass before it becomes a question: cheap checks that need only the chunk."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

from heal_tasks.core.setting_groups import QUESTION_FILTERS, QuestionFilter
from heal_tasks.core.types import QuestionKind
from heal_tasks.questions.extractive.words import content_words, is_content, singular, word_count, words
from heal_tasks.questions.writer import ChunkToAsk, Draft

Reason = Literal["empty"] | QuestionFilter

_WORDS_ALLOWED: dict[QuestionKind, tuple[int, int]] = {"question": (4, 40), "claim": (4, 40), "keyword": (2, 12)}

# Language models drop or change quotation marks and Markdown when they quote.
_IGNORED = re.compile("[\"'`´‘’‚‛“”„‟«»‹›*\u00ad\u200b]")
_DASHES = re.compile("[‐‑‒–—−]")
_ELLIPSIS = re.compile(r"^(\s|\.\.\.|…)+|(\s|\.\.\.|…)+$")

# A question that can only be understood beside its document is not one that finds it.
_DANGLING = re.compile(
    r"\b(?:this|the (?:above|given|provided)) (?:document|passage|text|excerpt|chunk|abstract|paper|article)\b"
    r"|\baccording to the (?:document|passage|text|excerpt|author|authors|abstract|paper|article)\b"
    r"|\bin the (?:document|passage|excerpt)\b",
    re.IGNORECASE,
)

# Function words that change a question's meaning; the others make two questions differ in form only.
_MEANINGFUL = frozenset(("how", "no", "not", "when", "where", "who", "whom", "whose", "why", "without"))
_MOST_EXTRA = 0.2


def normalise(text: str) -> str:
    """Reduce a text to the characters that two quotations of it share.

    Letters are folded to lower case, compatibility forms unified (NFKC), quotation marks, backticks and asterisks
    removed, dashes alike, blanks collapsed.
    """
    text = _IGNORED.sub("", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_DASHES.sub("-", text).split())


def evidence_found(evidence: str, chunk_text: str) -> bool:
    """True if a chunk contains a quotation, whatever its blanks, case, quotation marks and ellipses at the ends.

    Quotations that prove nothing are not found: those without a content word, or that begin or end within a word.
    """
    wanted, text = normalise(_ELLIPSIS.sub("", evidence)), normalise(chunk_text)
    if not content_words(wanted):
        return False
    starts = (match.start() for match in re.finditer(f"(?={re.escape(wanted)})", text))
    return any(not _splits_word(text, start) and not _splits_word(text, start + len(wanted)) for start in starts)


def copies_title(text: str, title: str) -> bool:
    """True if a question has only the title's words or content words: each chunk's vector contains its title."""
    content = set(content_words(text))
    return words(text) == words(title) or (bool(content) and content == set(content_words(title)))


def near_duplicates(one: str, other: str) -> bool:
    """True if one question has all meaningful words of the other and at most a fifth more.

    Order, plural and function words do not count. Questions that differ by an exchanged word (sum for mean, 1998 for
    1999) are not near duplicates.
    """
    few, many = sorted((_meaningful_words(one), _meaningful_words(other)), key=len)
    return bool(few) and few <= many and len(many) - len(few) <= _MOST_EXTRA * len(many)


def check_drafts(
    drafts: Iterable[Draft], chunk: ChunkToAsk, filters: Collection[QuestionFilter] = QUESTION_FILTERS
) -> Iterator[tuple[Draft, Reason | None]]:
    """Yield each draft for a chunk, in order, with the first active filter that it fails, or None.

    Filters are short and long (questions and claims have 4 to 40 words, keywords 2 to 12); dangling (speaks of "this
    document"); title (a copy of it); evidence (not found in the chunk); duplicate and near_duplicate (of an earlier
    draft; the latter of the same kind). A draft without a word always fails, as empty.
    """
    kept = list[Draft]()
    for draft in drafts:
        reasons = _objections(draft, chunk, kept)
        reason = next((reason for reason in reasons if reason in filters or reason == "empty"), None)
        if reason is None:
            kept.append(draft)
        yield draft, reason


def _splits_word(text: str, place: int) -> bool:
    """True if the characters before and at a place belong to one word, in a script with blanks between words."""
    around = text[max(place - 1, 0) : place + 1]
    return 0 < place < len(text) and all(each.isdecimal() or each.upper() != each.lower() for each in around)


def _meaningful_words(text: str) -> frozenset[str]:
    return frozenset(
        singular(word)
        for word in words(normalise(text))
        if is_content(word) or word in _MEANINGFUL or any(letter.isdigit() for letter in word)
    )


def _objections(draft: Draft, chunk: ChunkToAsk, kept: Sequence[Draft]) -> Iterator[Reason]:
    count, (fewest, most) = len(words(draft.text)), _WORDS_ALLOWED[draft.kind]
    if not count:
        yield "empty"
    if count < fewest:
        yield "short"
    if word_count(draft.text) > most:
        yield "long"
    if _DANGLING.search(draft.text):
        yield "dangling"
    if copies_title(draft.text, chunk.title):
        yield "title"
    if not evidence_found(draft.evidence, chunk.text):
        yield "evidence"
    key = words(normalise(draft.text))
    if any(key == words(normalise(other.text)) for other in kept):
        yield "duplicate"
    if any(draft.kind == other.kind and near_duplicates(draft.text, other.text) for other in kept):
        yield "near_duplicate"
