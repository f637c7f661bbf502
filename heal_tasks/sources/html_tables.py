"""Tables of HTML pages: their cells, unless a table only lays out the page."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_LAYOUT = frozenset({"table", "h1", "h2", "h3", "h4", "h5", "h6", "form", "article", "section", "pre"})
_PARTS = frozenset({"thead", "tbody", "tfoot"})
_MAX_SPAN = 1000
_MAX_CELLS = 200_000


def table_rows(table: "LexborNode", text_of: Callable[["LexborNode"], str]) -> tuple[str, list[list[str]]] | None:
    """The caption of a table, and the texts of its cells; a cell that spans rows is in each of them.

    Args:
        table: the element.
        text_of: the text of a cell.

    Returns:
        None for a table with fewer than two rows or columns, with a heading or another table in it, or whose role
        says that it is none: it lays out the page.
    """
    if (table.attributes.get("role") or "").lower() in {"presentation", "none"} or _lays_out(table):
        return None
    rows: list[list[str]] = []
    open_cells: dict[int, tuple[int, str]] = {}  # by column: rows that the cell still covers, and its text
    caption = ""
    cells = 0
    for row in _rows(table):
        if row.tag == "caption":
            caption = text_of(row).strip()
            continue
        texts: list[str] = []
        for cell in _children(row, {"td", "th"}):
            _fill(texts, open_cells)
            text, column = text_of(cell), len(texts)
            down, across = _span(cell, "rowspan"), _span(cell, "colspan")
            texts += [text, *[""] * (across - 1)]
            for place in range(column, column + across if down > 1 else column):
                open_cells[place] = down - 1, text if place == column else ""
        _fill(texts, open_cells)
        rows.append(texts)
        cells += len(texts)
        if cells > _MAX_CELLS:
            return None
    if len(rows) < 2 or max(map(len, rows)) < 2:
        return None
    return caption, rows


def _lays_out(table: "LexborNode") -> bool:
    """True if something stands in the table that no table of data has; the elements are walked until it is found."""
    node = table.child
    open_nodes = [table]
    while node is not None:
        if node.tag in _LAYOUT:
            return True
        child = node.child
        if child is not None:
            open_nodes.append(node)
            node = child
            continue
        node = node.next
        while node is None and len(open_nodes) > 1:
            node = open_nodes.pop().next
    return False


def _rows(table: "LexborNode") -> Iterator["LexborNode"]:
    for child in _children(table, {*_PARTS, "tr", "caption"}):
        if child.tag in _PARTS:
            yield from _children(child, {"tr"})
        else:
            yield child


def _children(node: "LexborNode", tags: set[str]) -> Iterator["LexborNode"]:
    child = node.child
    while child is not None:
        if child.tag in tags:
            yield child
        child = child.next


def _fill(texts: list[str], open_cells: dict[int, tuple[int, str]]) -> None:
    """Add the cells of rows above that cover the next columns."""
    while len(texts) in open_cells:
        left, text = open_cells.pop(len(texts))
        if left > 1:
            open_cells[len(texts)] = left - 1, text
        texts.append(text)


def _span(cell: "LexborNode", name: str) -> int:
    value = (cell.attributes.get(name) or "").strip()
    return min(int(value), _MAX_SPAN) if value.isdecimal() and len(value) < 9 and int(value) else 1
