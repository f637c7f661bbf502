"""Tables of PDF pages that have lines between their cells.

A table is a group of lines that meet: at least three horizontal and three vertical ones. One whose cells do not hold
all of the text that stands on it is left as text, and so is one without lines, whose rows PDFium puts on a line each.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pypdfium2 import PdfPage, PdfTextPage

_NEAR = 2.0  # points, a third of a small letter: lines so close are one
_SHORTEST = 5.0
_MAX_LINES = 400  # of a page and direction; drawings have more
_MAX_SEGMENTS = 20_000


class Line(NamedTuple):
    """A horizontal or vertical line: its place across, and its extent along, in points."""

    at: float
    start: float
    end: float


class Grid(NamedTuple):
    """The lines of a table, sorted."""

    rows: Sequence[float]  # from the top
    columns: Sequence[float]
    upright: Sequence[Line]


def page_text(page: "PdfPage", text: "PdfTextPage") -> list[str | list[list[str]]]:
    """The text of a page in order, with its tables as rows of cells."""
    whole = text.get_text_range()
    grids = [] if page.get_rotation() else grids_of(*_lines(page))
    tables = [(grid, rows) for grid in grids if (rows := _rows(grid, text)) is not None]
    if not tables:
        return [whole]
    owner = _owners(text, [grid for grid, _ in tables])
    parts: list[str | list[list[str]]] = []
    shown: set[int] = set()
    start = 0
    for place in range(1, len(owner) + 1):
        if place < len(owner) and owner[place] == owner[start]:
            continue
        if owner[start] < 0:
            parts.append(text.get_text_range(start, place - start))
        elif owner[start] not in shown:
            shown.add(owner[start])
            parts.append(tables[owner[start]][1])
        start = place
    return parts


def grids_of(flat: Sequence[Line], upright: Sequence[Line]) -> list[Grid]:
    """The tables among the lines of a page, from the top."""
    if not 3 <= len(flat) <= _MAX_LINES or not 3 <= len(upright) <= _MAX_LINES:
        return []
    group = list(range(len(flat) + len(upright)))

    def root(number: int) -> int:
        while group[number] != number:
            group[number] = group[group[number]]
            number = group[number]
        return number

    for row, across in enumerate(flat):
        for column, down in enumerate(upright):
            meets = across.start - _NEAR <= down.at <= across.end + _NEAR
            if meets and down.start - _NEAR <= across.at <= down.end + _NEAR:
                group[root(len(flat) + column)] = root(row)
    found = []
    for number in {root(row) for row in range(len(flat))}:
        rows = _merged(line.at for row, line in enumerate(flat) if root(row) == number)
        lines = [line for column, line in enumerate(upright) if root(len(flat) + column) == number]
        columns = _merged(line.at for line in lines)
        if len(rows) > 2 and len(columns) > 2:
            found.append(Grid(rows[::-1], columns, lines))
    return sorted(found, key=lambda grid: -grid.rows[0])


def _merged(places: Any) -> list[float]:
    """Sorted places; of those that are near each other the first."""
    kept: list[float] = []
    for place in sorted(places):
        if not kept or place - kept[-1] > _NEAR:
            kept.append(place)
    return kept


def _rows(grid: Grid, text: "PdfTextPage") -> list[list[str]] | None:
    """The cells of a table; None if they do not hold all of its text."""
    rows = []
    for top, bottom in zip(grid.rows, grid.rows[1:], strict=False):
        middle = (top + bottom) / 2
        cells: list[str] = []
        left, span = grid.columns[0], 1
        for right in grid.columns[1:]:
            lines = (line for line in grid.upright if abs(line.at - right) <= _NEAR)
            if right == grid.columns[-1] or any(line.start <= middle <= line.end for line in lines):
                cells += [text.get_text_bounded(left, bottom, right, top), *[""] * (span - 1)]
                left, span = right, 1
            else:
                span += 1
        rows.append(cells)
    inside = text.get_text_bounded(grid.columns[0], grid.rows[-1], grid.columns[-1], grid.rows[0])
    held = sum(len("".join(cell.split())) for row in rows for cell in row)
    return rows if held >= len("".join(inside.split())) > 0 else None


def _owners(text: "PdfTextPage", grids: Sequence[Grid]) -> list[int]:
    """The table that each character of a page is in, -1 outside; blanks that PDFium adds belong to what is before."""
    from pypdfium2 import PdfiumError

    owners: list[int] = []
    for place in range(text.count_chars()):
        try:
            left, bottom, right, top = text.get_charbox(place)
        except PdfiumError:
            left = right = bottom = top = 0.0
        if right <= left or top <= bottom:
            owners.append(owners[-1] if owners else -1)
            continue
        x, y = (left + right) / 2, (bottom + top) / 2
        owners.append(
            next(
                (
                    number
                    for number, grid in enumerate(grids)
                    if grid.columns[0] <= x <= grid.columns[-1] and grid.rows[-1] <= y <= grid.rows[0]
                ),
                -1,
            )
        )
    return owners


def _lines(page: "PdfPage") -> tuple[list[Line], list[Line]]:
    """Horizontal and vertical lines of a page, the edges of rectangles included."""
    import ctypes

    import pypdfium2.raw as raw

    flat: list[Line] = []
    upright: list[Line] = []
    left = _MAX_SEGMENTS
    for item in page.get_objects(filter=[raw.FPDF_PAGEOBJ_PATH], max_depth=1):
        a, b, c, d, e, f = item.get_matrix().get()
        count = raw.FPDFPath_CountSegments(item.raw)
        left -= count
        if left < 0:
            return [], []
        x, y = ctypes.c_float(), ctypes.c_float()
        begin = before = (0.0, 0.0)
        for number in range(count):
            segment = raw.FPDFPath_GetPathSegment(item.raw, number)
            raw.FPDFPathSegment_GetPoint(segment, x, y)
            point = (a * x.value + c * y.value + e, b * x.value + d * y.value + f)
            kind = raw.FPDFPathSegment_GetType(segment)
            edges = [(before, point)] if kind == raw.FPDF_SEGMENT_LINETO else []
            if kind == raw.FPDF_SEGMENT_MOVETO:
                begin = point
            if raw.FPDFPathSegment_GetClose(segment):
                edges.append((point, begin))
            for (x0, y0), (x1, y1) in edges:
                if abs(y0 - y1) < 1 and abs(x0 - x1) >= _SHORTEST:
                    flat.append(Line((y0 + y1) / 2, min(x0, x1), max(x0, x1)))
                elif abs(x0 - x1) < 1 and abs(y0 - y1) >= _SHORTEST:
                    upright.append(Line((x0 + x1) / 2, min(y0, y1), max(y0, y1)))
            before = point
    return _joined(flat), _joined(upright)


def _joined(lines: Sequence[Line]) -> list[Line]:
    """The lines without copies, those that continue each other as one."""
    kept: list[Line] = []
    for line in sorted({Line(round(at), start, end) for at, start, end in lines}):
        if kept and kept[-1].at == line.at and line.start <= kept[-1].end + _NEAR:
            kept[-1] = Line(line.at, kept[-1].start, max(kept[-1].end, line.end))
        else:
            kept.append(line)
    return kept
