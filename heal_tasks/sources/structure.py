"""The structure of a text in Markdown: sections by their headings, blocks, tables by their rows, sentences.

A text of another kind has sentences and blocks; a line of it that looks like a heading counts as one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise, zip_longest

from heal_tasks.sources.markdown import FENCE, MAX_HEADING_CHARS, NO_PARAGRAPH, atx_heading, plain_heading


class Break(IntEnum):
    """The kind of boundary that a piece begins at, the best place to divide a text first."""

    SECTION = 0
    BLOCK = 1
    SENTENCE = 2  # also a line of a list or of code, and a row of a table
    ANYWHERE = 3


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that is divided only if it is too long itself."""

    text: str  # with the white space that follows it
    begins: Break
    path: tuple[str, ...]  # the headings that it is under, its own included
    row: str = ""  # the row of a table that it ends with; the first one has the header, and headings, before it
    header: str = ""  # of that table


# After . ! ? and their like before anything but a small letter or a digit ("e.g. this", "Fig. 3"); after the full stops
# of scripts without blanks; at a blank line; at a line that starts like a heading, a list item or a prompt.
_SENTENCE = re.compile(
    r"(?<=[.!?…؟۔।॥።։])[\"')\]”’»]{0,3}\s+(?=[^\sa-z0-9])|(?<=[。！？｡။។།])[\"')\]”’」』）》]{0,3}"
    r"|\n\s*\n|\n(?=[ \t]*[^\sa-z0-9])"
)
_UNDERLINE = re.compile(r" {0,3}(?:={3,}|-{3,})[ \t]*")
_SEPARATOR = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
_CELLS = re.compile(r"(?<!\\)\|")
_MAX_NAME_CHARS = 200
"""Of a column. Forms name columns by whole questions; a longer text is a value."""


@dataclass(slots=True)
class _Part:
    """A run of lines of one kind: a heading, a table, code, or other text."""

    kind: str
    start: int
    level: int = 0
    heading: str = ""


def pieces(body: str) -> Iterator[Piece]:
    """The pieces of a text; joined they are the text. A heading is in one piece with what follows it."""
    path: list[tuple[int, str]] = []
    pending = -1  # where headings begin that nothing has followed yet
    parts = [*_parts(body), _Part("end", len(body))]
    for part, after in pairwise(parts):
        if part.kind == "heading":
            path = [item for item in path if item[0] < part.level]
            path.append((part.level, part.heading))
            pending = part.start if pending < 0 else pending
            continue
        names = tuple(name for _, name in path)
        text = body[part.start : after.start]
        found = _rows(text, names) if part.kind == "table" else _texts(text, names, code=part.kind == "code")
        for number, piece in enumerate(found):
            if pending >= 0 and not number:
                piece = replace(piece, text=body[pending : part.start] + piece.text, begins=Break.SECTION)
                pending = -1
            yield piece
    if pending >= 0:
        yield Piece(body[pending:], Break.SECTION, tuple(name for _, name in path))


def fields(row: str, header: str, *, empty: bool = False) -> list[str]:
    """A row of a table as a line per cell, each with the name of its column; of an empty cell only if ``empty``."""
    columns = zip_longest(_cells(header), _cells(row), fillvalue="")
    return [": ".join(filter(None, pair)) + "\n" for pair in columns if pair[1] or (empty and pair[0])]


def _parts(body: str) -> Iterator[_Part]:
    """The parts of a text in order; the first begins with it."""
    lines = body.splitlines(keepends=True)
    fence = ""
    kind = ""  # of the part that is open
    place = 0
    number = 0
    while number < len(lines):
        line = lines[number][:MAX_HEADING_CHARS].rstrip("\r\n")
        start, place = place, place + len(lines[number])
        following = lines[number + 1].rstrip("\r\n") if number + 1 < len(lines) else ""
        mark = FENCE.match(line) if line[:4].lstrip()[:1] in {"`", "~"} else None
        if fence:
            if mark is not None and mark[1].startswith(fence) and not line.strip(" \t`~"):
                fence, kind = "", "closed"
        elif mark is not None:
            yield _Part("code", start)
            fence, kind = mark[1], "code"
        elif line.lstrip(" ")[:1] == "#" and (heading := atx_heading(line)):
            yield _Part("heading", start, len(line) - len(line.lstrip(" #")) or 1, plain_heading(heading))
            kind = "heading"
        elif kind == "table" and "|" in line:
            pass
        elif "|" in line and "-" in following and "|" in following and _SEPARATOR.fullmatch(following[:5000]):
            yield _Part("table", start)
            kind = "table"
            number += 1
            place += len(lines[number])
        elif _is_underlined(lines, number, line, following):
            yield _Part("heading", start, 1 if "=" in following else 2, plain_heading(line.strip()))
            kind = "heading"
            number += 1
            place += len(lines[number])
        elif kind != "text" and (line.strip() or not start):
            yield _Part("text", start)
            kind = "text"
        number += 1


def _is_underlined(lines: Sequence[str], number: int, line: str, following: str) -> bool:
    """True if a line is a heading by the line below: a paragraph of its own, with a line of ``===`` or ``---``."""
    if following[:4].lstrip()[:1] not in {"=", "-"} or _UNDERLINE.fullmatch(following) is None:
        return False
    alone = not number or not lines[number - 1].strip()
    return alone and bool(line.strip()) and line.lstrip()[:2] not in NO_PARAGRAPH and line[:1] not in {" ", "|"}


def _texts(text: str, path: tuple[str, ...], *, code: bool) -> Iterator[Piece]:
    """Sentences, or lines of code, with the white space that follows them."""
    if code:
        lines = text.splitlines(keepends=True)
        for number, line in enumerate(lines):
            yield Piece(line, Break.SENTENCE if number else Break.BLOCK, path)
        return
    start, begins = 0, Break.BLOCK
    for match in _SENTENCE.finditer(text):
        if match.end() > start:
            yield Piece(text[start : match.end()], begins, path)
            start = match.end()
        begins = Break.BLOCK if match[0].count("\n") > 1 else Break.SENTENCE
    if start < len(text):
        yield Piece(text[start:], begins, path)


def _rows(text: str, path: tuple[str, ...]) -> Iterator[Piece]:
    """The rows of a table; the text of the first one begins with the header."""
    lines = text.splitlines(keepends=True)
    header, rows = "".join(lines[:2]), lines[2:] or [""]
    while len(rows) > 1 and not rows[-1].strip():
        rows[-2:] = [rows[-2] + rows[-1]]
    if any(len(cell) > _MAX_NAME_CHARS for cell in _cells(lines[0])):
        # A table without a header, such as questions with their answers: its first row says nothing of the others.
        rows, header = [header, *rows], ""
    yield Piece(header + rows[0], Break.BLOCK, path, rows[0].strip() and rows[0], header)
    for row in rows[1:]:
        yield Piece(row, Break.SENTENCE, path, row, header)


def _cells(row: str) -> list[str]:
    row = row.partition("\n")[0]  # below a header stands its separator
    return [cell.strip() for cell in _CELLS.split(row.strip().removeprefix("|").removesuffix("|"))]
