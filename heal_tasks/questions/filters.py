"""What a draft must pass before it becomes a question: cheap checks that need nothing but the chunk."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Literal

from heal_tasks.core.settings import QUESTION_FILTERS, QuestionFilter
from heal_tasks.core.types import QuestionKind
from heal_tasks.questions.extractive.words import content_words, is_content, singular, words
from heal_tasks.questions.writer import ChunkToAsk, Draft

Reason = Literal["empty"] | QuestionFilter

_WORDS_ALLOWED: dict[QuestionKind, tuple[int, int]] = {"question": (4, 40), "claim": (4, 40), "keyword": (2, 12)}

# Quotes and Markdown's marks are what a language model drops or changes first when it quotes.
_IGNORED = re.compile("[\"'`´‘’‚‛“”„‟«»‹›*\u00ad\u200b]")
_DASHES = re.compile("[‐‑‒–—−]")
_ELLIPSIS = re.compile(r"^(\s|\.\.\.|…)+|(\s|\.\.\.|…)+$")

# A question that can only be understood beside its document cannot be asked by somebody who is looking for it.
_DANGLING = re.compile(
    r"\b(?:this|the (?:above|given|provided)) (?:document|passage|text|excerpt|chunk|abstract|paper|article)\b"
    r"|\baccording to the (?:document|passage|text|excerpt|author|authors|abstract|paper|article)\b"
    r"|\bin the (?:document|passage|excerpt)\b",
    re.IGNORECASE,
)

# Function words that change what is asked for; the others make two questions differ in form only.
_TELLING = frozenset(("how", "no", "not", "when", "where", "who", "whom", "whose", "why", "without"))
_MOST_EXTRA = 0.2


def normalise(text: str) -> str:
    """Text reduced to what two quotations of the same passage have in common.

    Args:
        text: any text.

    Returns:
        Folded to lower case, compatibility forms unified (NFKC), without quotation marks, backticks and
        asterisks, dashes alike, blanks collapsed.
    """
    text = _IGNORED.sub("", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_DASHES.sub("-", text).split())


def evidence_found(evidence: str, chunk_text: str) -> bool:
    """Whether a quotation stands in a chunk, whatever its blanks, case and quotation marks.

    Args:
        evidence: the quotation; an ellipsis at either end is ignored.
        chunk_text: the chunk's text.

    Returns:
        False also for a quotation that proves nothing: one without a word that carries meaning, or that begins or ends
        within a word. Nearly every text holds an "a".
    """
    wanted, text = normalise(_ELLIPSIS.sub("", evidence)), normalise(chunk_text)
    if not content_words(wanted):
        return False
    starts = (match.start() for match in re.finditer(f"(?={re.escape(wanted)})", text))
    return any(not _splits_word(text, start) and not _splits_word(text, start + len(wanted)) for start in starts)


def copies_title(text: str, title: str) -> bool:
    """Whether a question says nothing but the title, which is embedded with every chunk: finding it is trivial.

    Args:
        text: the question.
        title: the document's title.

    Returns:
        True if both have the same words, or the same words that carry meaning.
    """
    if not title.strip():
        return False
    content = set(content_words(text))
    return words(text) == words(title) or (bool(content) and content == set(content_words(title)))


def near_duplicates(one: str, other: str) -> bool:
    """Whether two questions ask for the same in nearly the same words.

    Args:
        one: a question.
        other: another.

    Returns:
        True if one has all telling words of the other and at most a fifth more; order, plural and function words do
        not count. Two that differ by an exchanged word (sum for mean, 1998 for 1999) are not near duplicates.
    """
    few, many = sorted((_telling_words(one), _telling_words(other)), key=len)
    return bool(few) and few <= many and len(many) - len(few) <= _MOST_EXTRA * len(many)


def judge(
    drafts: Iterable[Draft], chunk: ChunkToAsk, filters: Collection[QuestionFilter] = QUESTION_FILTERS
) -> Iterator[tuple[Draft, Reason | None]]:
    """Decide about each draft.

    Args:
        drafts: as the writer proposed them, all for one chunk.
        chunk: the chunk.
        filters: those that are switched on: short and long (questions and claims have 4 to 40 words, keywords 2 to
            12); dangling (speaks of "this document"); title (a copy of it); evidence (not found in the chunk);
            duplicate and near_duplicate (of an earlier draft; the latter of the same kind).

    Yields:
        Each draft, in order, with the first filter that refuses it, or None. A draft without a word is always refused,
        as empty.
    """
    kept: list[Draft] = []
    seen: set[str] = set()
    for draft in drafts:
        key = " ".join(words(normalise(draft.text)))
        reason = next((reason for reason in _objections(draft, chunk) if reason in filters or reason == "empty"), None)
        if reason is None and "duplicate" in filters and key in seen:
            reason = "duplicate"
        if (
            reason is None
            and "near_duplicate" in filters
            and any(draft.kind == other.kind and near_duplicates(draft.text, other.text) for other in kept)
        ):
            reason = "near_duplicate"
        if reason is None:
            seen.add(key)
            kept.append(draft)
        yield draft, reason


def apply_filters(
    drafts: Iterable[Draft], chunk: ChunkToAsk, filters: Collection[QuestionFilter] = QUESTION_FILTERS
) -> tuple[list[Draft], Counter[Reason]]:
    """Keep the drafts that can be used; see :func:`judge`.

    Args:
        drafts: as the writer proposed them, all for one chunk.
        chunk: the chunk.
        filters: those that are switched on.

    Returns:
        The drafts kept, in order, and how many were dropped by reason.
    """
    judged = list(judge(drafts, chunk, filters))
    return [draft for draft, reason in judged if reason is None], Counter(reason for _, reason in judged if reason)


def _splits_word(text: str, place: int) -> bool:
    """Whether the characters before and at a place belong to one word, in a script that sets words apart by blanks."""
    around = text[max(place - 1, 0) : place + 1]
    return 0 < place < len(text) and all(each.isdecimal() or each.upper() != each.lower() for each in around)


def _telling_words(text: str) -> frozenset[str]:
    return frozenset(
        singular(word)
        for word in words(normalise(text))
        if is_content(word) or word in _TELLING or any(letter.isdigit() for letter in word)
    )


def _objections(draft: Draft, chunk: ChunkToAsk) -> Iterator[Reason]:
    count = len(words(draft.text))
    fewest, most = _WORDS_ALLOWED[draft.kind]
    if not count:
        yield "empty"
    if count < fewest:
        yield "short"
    if count > most:
        yield "long"
    if _DANGLING.search(draft.text):
        yield "dangling"
    if copies_title(draft.text, chunk.title):
        yield "title"
    if not evidence_found(draft.evidence, chunk.text):
        yield "evidence"
