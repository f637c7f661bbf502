"""Cells of a sheet to tables: where a table begins, what its header is, and how numbers look."""

import datetime
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from xml.etree.ElementTree import Element

from heal_tasks.sources.formats import markup
from heal_tasks.sources.formats.ooxml import attribute, descendants, local

_MAX_COLUMNS = 16_384
_MAX_MERGED = 10_000
_MERGE = re.compile(rb"<(?:\w+:)?mergeCell\s[^>]*?ref=[\"']([A-Za-z]+\d+):([A-Za-z]+\d+)[\"']")
_LONGEST_TAG_BYTES = 200
_PLACE = re.compile(r"([A-Za-z]{1,3})(\d*)")
_LITERAL = re.compile(r"\"[^\"]*\"|\[[^\]]*\]|\\.|_.")
# Built-in formats of dates and times (ECMA-376, 18.8.30), East Asian ones included.
_DATE_FORMATS = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})
_PERCENT_FORMATS = frozenset({9, 10})
_DURATION = re.compile(r"\[(?:h+|m+|s+)\]", re.IGNORECASE)
_DURATION_FORMAT = 46


class Number(str):
    """The text of a number or date: a row that has one is no header."""

    __slots__ = ()


class Styles:
    """The formats of numbers in a workbook."""

    def __init__(self, root: Element | None, *, from_1904: bool) -> None:
        self._epoch = datetime.datetime(1904, 1, 1) if from_1904 else datetime.datetime(1899, 12, 30)
        codes = {attribute(item, "numFmtId"): attribute(item, "formatCode") for item in descendants(root, "numFmt")}
        self._kinds: list[str] = []
        for formats in descendants(root, "cellXfs"):
            self._kinds = [_kind(attribute(item, "numFmtId"), codes) for item in formats if local(item) == "xf"]

    def shown(self, text: str, style: str) -> Number:
        """A number as it is shown: a date, hours, a percentage, or the number without the noise of binary fractions."""
        try:
            value = float(text)
        except ValueError:
            return Number(text)
        kind = self._kinds[int(style)] if style.isdecimal() and int(style) < len(self._kinds) else ""
        if kind == "duration" and abs(value) < 2_958_466:
            minutes, seconds = divmod(round(abs(value) * 86_400), 60)
            return Number(f"{'-' * (value < 0)}{minutes // 60:02}:{minutes % 60:02}:{seconds:02}")
        if kind == "date" and 0 <= value < 2_958_466:  # the year 9999
            moment = self._epoch + datetime.timedelta(seconds=round(value * 86_400))
            if value < 1:
                return Number(moment.time().isoformat())
            return Number(moment.isoformat(" ") if moment.time() != datetime.time() else moment.date().isoformat())
        return Number(f"{value * 100:.15g}%" if kind == "percent" else f"{value:.15g}")


def _kind(key: str, codes: dict[str, str]) -> str:
    code = _LITERAL.sub("", codes.get(key, "").partition(";")[0]).lower()
    number = int(key) if key.isdecimal() else 0
    if number == _DURATION_FORMAT or _DURATION.search(codes.get(key, "")):
        return "duration"
    if number in _PERCENT_FORMATS or "%" in code:
        return "percent"
    is_date = number in _DATE_FORMATS or (code != "general" and any(char in code for char in "ymdhs"))
    return "date" if is_date else ""


def place_of(reference: str, default: int) -> int:
    """The column of a cell, from 0, by its name such as ``AB12``."""
    found = _PLACE.fullmatch(reference)
    if found is None:
        return default
    column = 0
    for letter in found[1].upper():
        column = 26 * column + ord(letter) - 64
    return min(column, _MAX_COLUMNS) - 1


def merged_cells(pieces: Iterable[bytes]) -> list[tuple[int, int, int]]:
    """The merged cells of a sheet that are higher than a row: column, first row, last row, from 0; 10,000 at most.

    They stand behind the rows, so a sheet is read once for them.
    """
    found: list[tuple[int, int, int]] = []
    rest = b""
    for piece in pieces:
        rest += piece
        end = 0
        for match in _MERGE.finditer(rest):
            end = match.end()
            first, last = (_PLACE.fullmatch(name.decode()) for name in match.groups())
            if first and last and first[2] and last[2] and int(first[2]) < int(last[2]):
                found.append((place_of(match[1].decode(), 0), int(first[2]) - 1, int(last[2]) - 1))
        rest = rest[max(end, len(rest) - _LONGEST_TAG_BYTES) :]
    return sorted(found[:_MAX_MERGED], key=lambda item: item[1])


def sheet_tables(
    rows: Iterable[tuple[int, dict[int, str | Number]]], merged: list[tuple[int, int, int]], max_chars: int
) -> Iterator[str]:
    """The tables of a sheet, and its lines above and between tables.

    An empty row ends a table. The first row with two cells or more is the header; rows before it are lines. A table
    whose first row has a number goes on with the header of the one before.
    """
    block: list[dict[int, str | Number]] = []
    header: dict[int, str | Number] = {}
    length, last = 0, -1
    for number, cells in _filled(rows, merged):
        if block and (not cells or number > last + 1):
            texts, header = _block(block, header)
            yield from texts
            block = []
        if cells:
            block.append(cells)
            length += sum(map(len, cells.values()))
        last = number
        if length > max_chars:
            break
    yield from _block(block, header)[0]


def _filled(
    rows: Iterable[tuple[int, dict[int, str | Number]]], merged: list[tuple[int, int, int]]
) -> Iterator[tuple[int, dict[int, str | Number]]]:
    """The rows, with the value of a merged cell in every row that it covers."""
    open_cells: list[tuple[int, int, str | Number]] = []  # column, last row, value
    waiting = iter([*merged, (0, 2**31, 0)])
    upcoming = next(waiting)
    for number, cells in rows:
        own = bool(cells)
        open_cells = [item for item in open_cells if item[1] >= number]
        for column, _, value in open_cells if own else ():
            cells.setdefault(column, value)
        while upcoming[1] <= number:
            column, begin, end = upcoming
            if begin == number and column in cells:
                open_cells.append((column, end, cells[column]))
            upcoming = next(waiting)
        yield number, cells


def _block(
    block: list[dict[int, str | Number]], header: dict[int, str | Number]
) -> tuple[list[str], dict[int, str | Number]]:
    """Texts of a block of rows, and the header of its table."""
    is_list = len(block) > 1 and all(len(row) == 1 for row in block)
    lines: list[str] = (
        [] if is_list else list(takewhile(lambda cell: not isinstance(cell, Number), _single_cells(block)))
    )
    block = block[len(lines) :]
    if not block:
        return lines, header
    numbers = any(isinstance(cell, Number) for cell in block[0].values())
    if numbers and header and set(block[0]) <= set(header):
        block = [header, *block]
    columns = sorted({column for row in block for column in row})
    if len(columns) == 1:
        lines += [markup.item(row[columns[0]]) for row in block]
        return lines, header
    table = markup.table([[row.get(column, "") for column in columns] for row in block])
    return [*lines, table], block[0]


def _single_cells(block: list[dict[int, str | Number]]) -> Iterator[str | Number]:
    """The cells of the rows at the beginning that have no other."""
    for row in block:
        if len(row) != 1:
            return
        yield from row.values()
