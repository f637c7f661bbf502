"""Rows of CSV files as people export them.

The delimiter is the one of comma, semicolon, tab and bar that splits the header; a first line ``sep=;`` names it.
Columns are named in any case. Missing cells at the end of a row are empty, and excess ones have to be. A file that is
not UTF-8 is decoded line by line.

A quote that is never closed takes in what follows until it meets another quote. Then only the row that it is in is
lost: reading goes on below that row's first line, at the next line that has all cells.
"""

import csv
import io
import re
from collections.abc import Iterator

from heal_tasks.core.types import Rejected
from heal_tasks.sources.encodings import GUESSED, decode, decode_wide, looks_western, read_damaged
from heal_tasks.sources.records import is_visible, reject
from heal_tasks.sources.table_rows import Columns, Row

DELIMITERS = ",;\t|"
_BLANK_LINES = frozenset({"\n", "\r\n", "\r"})
_METADATA_CHARS = 2**20
_SHOWN = 500
_SEP = re.compile(r"\ufeff?\"?sep=(.)\"?\r?\n?", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"-?\d+\.0")
# Python's marks for bytes that could not be decoded.
_UNDECODED = re.compile("[\udc80-\udcff]")


def csv_rows(path: str, data: bytes, columns: Columns, max_chars: int) -> Iterator[Row | Rejected]:
    """Read every CSV row that is not blank, below a header row. A row's ``line`` is its first."""
    text, guessed = _decoded(data)
    lines = _Lines(text, max_chars + _METADATA_CHARS)
    # Longer fields are an error by default. The limit is one of the process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), lines.longest + 1))
    lost = max(1, text.count("\n") - 1)
    header = _header(lines, columns)
    if header is None:
        reason = (
            f"the first row names no columns {columns.described()}; name them, split by comma, semicolon, tab or bar"
        )
        yield reject(path, 1, reason, text, lost)
        return
    names, delimiter = header
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield reject(path, 1, f"the first row names a column twice ({', '.join(twice)}); rename one", text, lost)
        return
    below = lines.place()
    whole = columns.ids in names and _all_whole(lines, delimiter, names.index(columns.ids), len(names))
    lines.go_to(below)
    for line, cells in _rows(path, lines, delimiter, len(names)):
        if isinstance(cells, Rejected):
            yield cells
            continue
        raw = delimiter.join(cells)
        if not is_visible(raw.replace(delimiter, "")):
            continue
        excess = sum(map(bool, map(str.strip, cells[len(names) :])))
        if excess:
            reason = f"the row has {len(cells)} cells, the header {len(names)}; quote cells that contain the delimiter"
            yield reject(path, line, reason, raw)
        elif _UNDECODED.search(raw):
            yield reject(path, line, "neither UTF-8 nor Windows-1252; convert the row to UTF-8", raw)
        else:
            values = {name: cell for name, cell in zip(names, cells, strict=False) if is_visible(cell)}
            if whole and columns.ids in values:
                values[columns.ids] = values[columns.ids].strip().removesuffix(".0")
            western = not guessed.isdisjoint(range(line, lines.number + 1))
            yield Row(line, values, raw, GUESSED if western else None)


class _Lines:
    """The lines of a text for ``csv.reader``, which asks for as many as a row has; bounds a row and can go back."""

    def __init__(self, text: str, longest: int) -> None:
        self._stream = io.StringIO(text, newline="")
        self.longest = longest
        self.number = 0  # of the last line given
        self.begun = 0, 0  # where the row begins: place and number of the line before
        self._doomed_until = -1
        self._row_chars = self._asked = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        # A scan that began in an earlier row was inside a quote here too, and came to nothing: this one would as well.
        if self._asked and self._stream.tell() <= self._doomed_until:
            raise csv.Error("a quote is never closed")
        line = self._stream.readline()
        if not self._asked:
            while line in _BLANK_LINES:
                self.number += 1
                line = self._stream.readline()
            self.begun = self._stream.tell() - len(line), self.number
        if not line:
            raise StopIteration
        self.number += 1
        self._asked += 1
        self._row_chars += len(line)
        if self._row_chars > self.longest:
            raise csv.Error(f"the row has more than {self.longest} characters, so a quote is not closed or it is none")
        return line

    def begin_row(self) -> None:
        """Start counting a row."""
        self._row_chars = self._asked = 0

    def place(self) -> tuple[int, int]:
        """Place and number of the line before the next one."""
        return self._stream.tell(), self.number

    def row_text(self) -> str:
        """The beginning of the row; the next line stays the next."""
        here = self._stream.tell()
        self._stream.seek(self.begun[0])
        text = self._stream.readline(_SHOWN)
        self._stream.seek(here)
        return text

    def go_to(self, place: tuple[int, int]) -> None:
        """Give the line at a place next, as if nothing had been read."""
        self._stream.seek(place[0])
        self.number = place[1]
        self._doomed_until = -1

    def go_below(self) -> None:
        """Give the second line of the row next, after it has failed at the present one."""
        if self._asked > 1:
            self._doomed_until = max(self._doomed_until, self._stream.tell())
        place, before = self.begun
        self._stream.seek(place)
        self._stream.readline()
        self.number = before + 1


def _rows(path: str, lines: _Lines, delimiter: str, width: int) -> Iterator[tuple[int, list[str] | Rejected]]:
    """Rows with the number of their first line; after a broken one, the next that has as many cells as the header."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    broken: Rejected | None = None
    failed = 0
    while True:
        lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            if broken is not None:
                lost = max(1, lines.number - broken.line + 1)
                yield broken.line, reject(path, broken.line, broken.reason, broken.raw, lost)
            return
        except csv.Error as error:
            lines.go_below()
            failed += 1
            if broken is None:
                reason = f"broken row ({error}); write a quote inside a quoted field twice"
                broken = reject(path, lines.begun[1] + 1, reason, lines.row_text())
            continue
        if broken is not None:
            if len(cells) != width:
                continue
            yield broken.line, reject(path, broken.line, broken.reason, broken.raw, failed)
            broken, failed = None, 0
        yield lines.begun[1] + 1, cells


def _header(lines: _Lines, columns: Columns) -> tuple[list[str], str] | None:
    """The names of the columns and the delimiter; the lines are left below the header."""
    start = lines.place()
    try:
        first = next(lines, "")
    except csv.Error:
        return None
    if (named := _SEP.fullmatch(first)) is not None:
        start = lines.place()
    delimiters = named[1] if named else DELIMITERS
    for delimiter in delimiters:
        lines.go_to(start)
        lines.begin_row()
        reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
        try:
            cells = next((row for row in reader if any(map(str.strip, row))), [])
        except csv.Error:
            continue
        if not columns.missing({_plain(cell) for cell in cells}):
            return _names(cells, columns), delimiter
    return None


def _names(cells: list[str], columns: Columns) -> list[str]:
    """Names of the columns: those asked for in lower case, empty ones by their place."""
    given = [cell.strip() for cell in cells]
    names = []
    for number, (name, cell) in enumerate(zip(given, cells, strict=True), start=1):
        plain = _plain(cell)
        known = plain in columns.known and (name == plain or plain not in given)
        names.append(plain if known else name or f"column {number}")
    return names


def _plain(name: str) -> str:
    return "".join(char for char in name if is_visible(char) or char == " ").strip().lower()


def _all_whole(lines: _Lines, delimiter: str, column: int, width: int) -> bool:
    """True if all ids look like 1.0: a column of integers with gaps, as table programs export it."""
    found = False
    for _, cells in _rows("", lines, delimiter, width):
        if isinstance(cells, list) and len(cells) > column and cells[column].strip():
            if _WHOLE_NUMBER.fullmatch(cells[column].strip()) is None:
                return False
            found = True
    return found


def _decoded(data: bytes) -> tuple[str, set[int]]:
    """The text, and the numbers of lines that were read as Windows-1252; other bytes stay marked as undecoded."""
    if (wide := decode_wide(data)) is not None:
        return wide, set()
    try:
        return decode(data), set()
    except UnicodeDecodeError:
        texts, guessed = [], set()
        for number, line in enumerate(io.BytesIO(data), start=1):
            try:
                texts.append(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError:
                if (damaged := read_damaged(line)) is not None:
                    texts.append(damaged)
                elif looks_western(line):
                    texts.append(line.decode(GUESSED))
                    guessed.add(number)
                else:
                    texts.append(line.decode("utf-8", "surrogateescape"))
        return "".join(texts), guessed
