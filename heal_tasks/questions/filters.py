"""What a draft must pass before it becomes a question: cheap checks that need nothing but the chunk."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from heal_tasks.core.types import QuestionKind
from heal_tasks.questions.words import content_words, words
from heal_tasks.questions.writer import ChunkToAsk, Draft

Reason = Literal["empty", "short", "long", "dangling", "title", "evidence", "duplicate"]

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
        False also for an empty quotation.
    """
    wanted = normalise(_ELLIPSIS.sub("", evidence))
    return bool(wanted) and wanted in normalise(chunk_text)


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


def apply_filters(drafts: Iterable[Draft], chunk: ChunkToAsk) -> tuple[list[Draft], Counter[Reason]]:
    """Keep the drafts that can be used.

    Args:
        drafts: as the writer proposed them, all for one chunk.
        chunk: the chunk.

    Returns:
        The drafts kept, in order, and how many were dropped by reason: empty; short or long (questions and
        claims have 4 to 40 words, keywords 2 to 12); dangling (speaks of "this document"); title (a copy of
        it); evidence (not found in the chunk); duplicate (of an earlier draft).
    """
    kept: list[Draft] = []
    dropped: Counter[Reason] = Counter()
    seen: set[str] = set()
    for draft in drafts:
        key = " ".join(words(normalise(draft.text)))
        reason = _objection(draft, chunk) or ("duplicate" if key in seen else None)
        if reason is not None:
            dropped[reason] += 1
            continue
        seen.add(key)
        kept.append(draft)
    return kept, dropped


def _objection(draft: Draft, chunk: ChunkToAsk) -> Reason | None:
    count = len(words(draft.text))
    fewest, most = _WORDS_ALLOWED[draft.kind]
    if not count:
        return "empty"
    if count < fewest:
        return "short"
    if count > most:
        return "long"
    if _DANGLING.search(draft.text):
        return "dangling"
    if copies_title(draft.text, chunk.title):
        return "title"
    if not evidence_found(draft.evidence, chunk.text):
        return "evidence"
    return None
