"""The Markdown that readers of files write: headings, lists and tables, which the chunker finds again."""

import re
from collections.abc import Sequence

MAX_LEVEL = 6
_FENCES = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)
_BREAKS = re.compile(r"[^\S\n]*\n\s*")


def heading(level: int, text: str) -> str:
    """A heading of level 1 to 6; empty if the text is."""
    line = " ".join(text.split())
    return f"{'#' * max(1, min(level, MAX_LEVEL))} {line}" if line else ""


def item(text: str, depth: int = 0, number: int | None = None) -> str:
    """An item of a list, at a depth from 0, with a bullet or a number; empty if the text is."""
    text = _BREAKS.sub(" ", text.strip())
    mark = "-" if number is None else f"{number}."
    return f"{'  ' * min(depth, 8)}{mark} {text}" if text else ""


def fenced(code: str, language: str = "") -> str:
    """A block of code between fences that are longer than those in it."""
    inner = max(map(len, _FENCES.findall(code)), default=0)
    mark = "`" * max(3, inner + 1)
    return f"{mark}{language}\n{code}\n{mark}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table, whose first row is its header, without empty rows and empty columns; a single cell is its text."""
    cleaned = [[" ".join(cell.split()) for cell in row] for row in rows]
    cleaned = [row for row in cleaned if any(row)]
    width = max(map(len, cleaned), default=0)
    columns = [place for place in range(width) if any(len(row) > place and row[place] for row in cleaned)]
    kept = [[row[place] if len(row) > place else "" for place in columns] for row in cleaned]
    if not kept:
        return ""
    if len(kept) == len(columns) == 1:
        return kept[0][0]
    return "\n".join([table_row(kept[0]), table_row(["---"] * len(columns)), *map(table_row, kept[1:])])


def table_row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def blocks(parts: Sequence[str]) -> str:
    """Blocks, separated by an empty line, and items of one list by a line break; empty ones are left out."""
    text = ""
    was_item = False
    for part in parts:
        part = part.strip("\n")
        if not part.strip():
            continue
        is_item = re.match(r" *(?:-|\d+\.) ", part) is not None
        text += ("\n" if was_item and is_item else "\n\n" if text else "") + part
        was_item = is_item
    return text


def nested(text: str, levels: int) -> str:
    """A text whose headings are so many levels deeper."""
    return re.sub(r"^#{1,6}(?= )", lambda mark: "#" * min(MAX_LEVEL, len(mark[0]) + levels), text, flags=re.MULTILINE)
