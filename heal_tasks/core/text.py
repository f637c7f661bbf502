"""Text that can be stored and sent, for Postgres and JSON over HTTP take neither NUL nor half a surrogate pair; text
that can be shown in a terminal; and the title line of a chunk."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


NEAR = 0.75
"""Similarity of two names of which one is suggested for the other; two unlike words of some letters reach 0.6."""
SHORTEST_BEGINNING = 3
"""Characters of a name that is taken for the beginning of another one."""

MAX_HEADING_CHARS = 120
"""Of a chunk's headings. The encoder reads 200 characters of a title line, so the title keeps 77."""

HEADINGS_JOINED_BY = " › "


def title_line(title: str, heading: str) -> str:
    """The title of a document, and behind it the headings that a chunk is under; ``heal.title_line`` does the same."""
    if not heading:
        return title
    return f"{title[:77].rstrip()}{HEADINGS_JOINED_BY}{heading}" if title else heading


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant by another: one that differs by little, or that begins with it."""
    folded = {item.lower(): item for item in sorted(known)}
    wanted = name.lower()
    near = get_close_matches(wanted, folded, 1, cutoff=NEAR)
    if not near and len(wanted) >= SHORTEST_BEGINNING:
        near = [item for item in folded if item.startswith(wanted)]
    return folded[near[0]] if near else None


def storable(text: str) -> str:
    """Replace NUL characters and lone surrogates by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def printable(text: str) -> str:
    """Drop control characters but tabs and line feeds: a terminal would obey them, whoever wrote the text."""
    return _COMMANDS.sub("", text)


def unstorable(text: str) -> str | None:
    """Name the character that keeps a text from being stored; None if it has none."""
    found = _UNSTORABLE.search(text)
    if found is None:
        return None
    return "a NUL character (U+0000)" if found[0] == "\0" else "half of a surrogate pair"
