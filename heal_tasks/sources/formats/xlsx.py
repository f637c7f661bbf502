"""Workbooks to Markdown: a heading per sheet, its tables, comments, text boxes and charts.

Cells have the values that the program calculated last; nothing is calculated here, and macros and links to other files
are not read. Hidden sheets, rows and columns are read like the others.
"""

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from heal_tasks.sources.extract import Extract, UnreadableError
from heal_tasks.sources.formats import markup
from heal_tasks.sources.formats.charts import chart_table
from heal_tasks.sources.formats.ooxml import Archive, attribute, descendants, first, local, properties, relation_id
from heal_tasks.sources.formats.sheets import Number, Styles, merged_cells, place_of, sheet_tables
from heal_tasks.sources.formats.titles import chosen_title

_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")


def extract_xlsx(data: bytes, max_chars: int) -> Extract:
    """Extract the text of a workbook.

    Raises:
        UnreadableError: it is no workbook, is encrypted or broken, or has no text.
    """
    archive = Archive(data)
    place = archive.main_part("xl/workbook.xml")
    root = archive.tree(place)
    if root is None or local(root) != "workbook":
        raise UnreadableError("the file is no workbook that can be read (no xl/workbook.xml); save it again as .xlsx")
    relations = archive.relations(place)
    reader = _Reader(archive, place, root, max_chars)
    parts: list[str] = []
    count = 0
    for sheet in descendants(root, "sheet"):
        relation = relations.get(relation_id(sheet))
        if relation is None:
            continue
        count += 1
        found = [part for part in reader.sheet(relation.target, relation.kind) if part]
        if found:
            parts += [markup.heading(2, attribute(sheet, "name")), *found]
        if sum(map(len, parts)) > max_chars:
            break
    if not parts:
        raise UnreadableError(f"the workbook has no text in its {count} sheets; delete it or fill it")
    known = properties(archive)
    return Extract(chosen_title(known.pop("title", "")), markup.blocks(parts), known | {"sheets": count})


class _Reader:
    """Reads the sheets of one workbook."""

    def __init__(self, archive: Archive, place: str, root: Element, max_chars: int) -> None:
        self._archive, self._max_chars = archive, max_chars
        early = any(attribute(item, "date1904") in {"1", "true"} for item in descendants(root, "workbookPr"))
        styles = next(iter(archive.related(place, "styles")), "xl/styles.xml")
        self._styles = Styles(archive.tree(styles), from_1904=early)
        strings = next(iter(archive.related(place, "sharedStrings")), "xl/sharedStrings.xml")
        self._strings = [_rich_text(item) for item in archive.elements(strings, "si")]
        persons = next(iter(archive.related(place, "person")), "xl/persons/person.xml")
        self._persons = {
            attribute(person, "id"): attribute(person, "displayName")
            for person in descendants(archive.tree(persons), "person")
        }

    def sheet(self, place: str, kind: str) -> Iterator[str]:
        """The blocks of a sheet."""
        if kind != "chartsheet":
            merged = merged_cells(self._archive.pieces(place))
            yield from sheet_tables(self._rows(place), merged, self._max_chars)
        for relation in self._archive.relations(place).values():
            if relation.kind in {"comments", "threadedComment"}:
                yield from self._comments(relation.target)
            elif relation.kind == "drawing":
                yield from self._drawing(relation.target)

    def _rows(self, place: str) -> Iterator[tuple[int, dict[int, str | Number]]]:
        """Number of each row, from 0, and its cells by column."""
        last = -1
        for row in self._archive.elements(place, "row"):
            given = attribute(row, "r")
            last = int(given) - 1 if given.isdecimal() else last + 1
            cells: dict[int, str | Number] = {}
            column = -1
            for cell in row:
                if local(cell) != "c":
                    continue
                column = place_of(attribute(cell, "r"), column + 1)
                if (value := self._value(cell)) != "":
                    cells[column] = value
            yield last, cells

    def _value(self, cell: Element) -> str | Number:
        kind = attribute(cell, "t", "n")
        if kind == "inlineStr":
            return _rich_text(first(cell, "is"))
        value, formula = first(cell, "v"), first(cell, "f")
        text = "" if value is None else value.text or ""
        if not text:
            return f"={formula.text}" if formula is not None and formula.text else ""
        if kind == "s":
            return self._strings[int(text)] if text.isdecimal() and int(text) < len(self._strings) else ""
        if kind == "b":
            return "TRUE" if text == "1" else "FALSE"
        return self._styles.shown(text, attribute(cell, "s")) if kind == "n" else _unescaped(text)

    def _comments(self, place: str) -> Iterator[str]:
        root = self._archive.tree(place)
        authors = [author.text or "" for author in descendants(root, "author")]
        for comment in descendants(root, "comment", "threadedComment"):
            parts = "".join(node.text or "" for node in descendants(comment, "t", "text"))
            text = " ".join(_unescaped(parts).split())
            number, person = attribute(comment, "authorId"), attribute(comment, "personId")
            author = authors[int(number)] if number.isdecimal() and int(number) < len(authors) else ""
            author = self._persons.get(person, author) or "unknown"
            # Beside a thread of comments, programs keep a note for those that cannot show threads.
            if text and not text.startswith("[Threaded comment]") and not author.startswith("tc="):
                yield f"Comment on {attribute(comment, 'ref')} ({author}): {text}"

    def _drawing(self, place: str) -> Iterator[str]:
        root = self._archive.tree(place)
        for paragraph in descendants(root, "p"):
            yield "".join(node.text or "" for node in descendants(paragraph, "t"))
        for target in self._archive.related(place, "chart"):
            yield from chart_table(self._archive.tree(target))


def _rich_text(item: Element | None) -> str:
    """The text of a cell, without the reading aids of East Asian text."""
    parts = []
    for child in () if item is None else item:
        if local(child) == "t":
            parts.append(child.text or "")
        elif local(child) == "r":
            parts += [node.text or "" for node in child if local(node) == "t"]
    return _unescaped("".join(parts))


def _unescaped(text: str) -> str:
    """The text without the escapes in which programs write line ends and what XML has not: ``_x000D_``."""
    return _ESCAPED.sub(lambda code: sign if (sign := chr(int(code[1], 16))).isprintable() else " ", text)
