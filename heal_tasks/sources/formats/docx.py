"""Word documents to Markdown: headings, lists, tables, notes, comments, text boxes, headers and footers.

Accepted changes are assumed: what was inserted is kept, and what was deleted is left out. Macros, fields' instructions
and addresses of links are not read.
"""

import re
from collections import Counter
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from heal_tasks.sources.extract import Extract, UnreadableError
from heal_tasks.sources.formats import markup
from heal_tasks.sources.formats.ooxml import Archive, attribute, descendants, first, local, properties
from heal_tasks.sources.formats.titles import chosen_title

_WRAPPERS = frozenset({
    "ins", "moveTo", "hyperlink", "smartTag", "customXml", "sdt", "sdtContent", "fldSimple", "oMathPara", "oMath",
    "dir", "bdo", "Choice", "r", "ruby", "rubyBase",
})  # fmt: skip
_CHARACTERS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_HEADING_NAME = re.compile(r"(?:heading|titre|überschrift|rubrik|encabezado|título|titolo|kop) ?([1-9])", re.IGNORECASE)
_NOTES = {"footnoteReference": "footnotes", "endnoteReference": "endnotes", "commentReference": "comments"}
_TITLE, _BODY_LEVEL = -1, 9
_MAX_NESTED = 20


def extract_docx(data: bytes, max_chars: int) -> Extract:
    """Extract the text of a Word document.

    Raises:
        UnreadableError: it is no Word document, is encrypted or broken.
    """
    archive = Archive(data)
    place = archive.main_part("word/document.xml")
    root = archive.tree(place)
    body = first(root, "body")
    if body is None:
        raise UnreadableError("the file is no Word document (it has no body); save it again as .docx")
    reader = _Reader(archive, place)
    parts = list(reader.blocks(body, max_chars))
    parts += reader.margins()
    known = properties(archive)
    title = chosen_title(reader.title, known.pop("title", ""), reader.first_heading)
    return Extract(title, markup.blocks(parts), known)


class _Reader:
    """Reads the parts of one document."""

    def __init__(self, archive: Archive, place: str) -> None:
        self._archive, self._place = archive, place
        self.title = self.first_heading = ""
        self._levels, self._list_styles = _styles(archive.tree(self._related("styles")))
        self._formats = _list_formats(archive.tree(self._related("numbering")))
        self._counts: Counter[tuple[str, int]] = Counter()
        self._notes = {part: self._read_notes(part) for part in _NOTES.values()}
        self._pending: list[str] = []  # notes, comments and boxes of the paragraph that is being read

    def blocks(self, root: Element, max_chars: int, depth: int = 0) -> Iterator[str]:
        """The blocks below an element, in order, until there are more characters than may be."""
        length = 0
        for child in root:
            name = local(child)
            if name == "p":
                found = [self._paragraph(child)]
            elif name == "tbl":
                found = [self._table(child, depth)]
            elif name in _WRAPPERS and depth < _MAX_NESTED:
                found = list(self.blocks(child, max_chars, depth + 1))
            else:
                continue
            if depth == 0 or self._pending:
                found += self._pending
                self._pending = []
            yield from found
            length += sum(map(len, found))
            if length > max_chars:
                return

    def margins(self) -> list[str]:
        """The lines of headers and footers, each once."""
        relations = self._archive.relations(self._place).values()
        places = [item.target for item in relations if item.kind in {"header", "footer"}]
        lines: dict[str, None] = {}
        for place in places:
            for paragraph in descendants(self._archive.tree(place), "p"):
                text = " ".join(self._text(paragraph).split())
                if any(map(str.isalpha, text)):
                    lines[text] = None
        self._pending = []
        return list(lines)

    def _related(self, kind: str) -> str:
        return next(iter(self._archive.related(self._place, kind)), f"word/{kind}.xml")

    def _read_notes(self, part: str) -> dict[str, Element]:
        root = self._archive.tree(self._related(part))
        notes = (note for note in (() if root is None else root) if attribute(note, "type", "normal") == "normal")
        return {attribute(note, "id"): note for note in notes}

    def _paragraph(self, paragraph: Element) -> str:
        text = self._text(paragraph).strip()
        properties = first(paragraph, "pPr")
        style = _value(properties, "pStyle")
        level = _outline(properties, self._levels.get(style, _BODY_LEVEL))
        if text and level == _TITLE and not self.title:
            self.title = " ".join(text.split())
        if text and 0 <= level < _BODY_LEVEL and not self.first_heading:
            self.first_heading = " ".join(text.split())
        if level < _BODY_LEVEL:
            return markup.heading(max(level, 0) + 1, text)
        numbering = first(properties, "numPr")
        number_id, depth = _value(numbering, "numId"), _value(numbering, "ilvl")
        number_id = number_id or self._list_styles.get(style, "")
        if not text or not number_id or number_id == "0":
            return text
        place = int(depth) if depth.isdecimal() else 0
        if self._formats.get((number_id, place), "bullet") in {"bullet", "none"}:
            return markup.item(text, place)
        self._counts[number_id, place] += 1
        for deeper in range(place + 1, 9):
            self._counts.pop((number_id, deeper), None)
        return markup.item(text, place, self._counts[number_id, place])

    def _text(self, element: Element, depth: int = 0) -> str:
        """The text of a paragraph's runs; the notes and boxes that it refers to become pending."""
        parts = []
        for child in element:
            name = local(child)
            if name == "t":
                parts.append(child.text or "")
            elif name in _CHARACTERS:
                parts.append(_CHARACTERS[name])
            elif name in _NOTES:
                parts.append(self._note(_NOTES[name], attribute(child, "id")))
            elif name == "AlternateContent":
                parts += [self._text(chosen, depth + 1) for chosen in child[:1]]
            elif name in {"drawing", "pict", "object"}:
                self._boxes(child, depth)
            elif (name in _WRAPPERS or "/math}" in child.tag) and depth < _MAX_NESTED:
                parts.append(self._text(child, depth + 1))
        return "".join(parts)

    def _note(self, part: str, key: str) -> str:
        """The mark of a note, which becomes pending; a comment has no mark."""
        note = self._notes[part].pop(key, None)
        if note is None:
            return ""
        text = " ".join(self._text(item) for item in descendants(note, "p"))
        text = " ".join(text.split())
        if not text:
            return ""
        if part == "comments":
            self._pending.append(f"Comment ({attribute(note, 'author') or 'unknown'}): {text}")
            return ""
        mark = f"[^{'e' if part == 'endnotes' else ''}{key}]"
        self._pending.append(f"{mark}: {text}")
        return mark

    def _boxes(self, drawing: Element, depth: int) -> None:
        """Text boxes in a drawing become pending."""
        for content in _outermost(drawing, "txbxContent"):
            if depth < _MAX_NESTED:
                kept, self._pending = self._pending, []
                found = list(self.blocks(content, 10**9, depth + 1))
                self._pending = [*kept, *found, *self._pending]

    def _table(self, element: Element, depth: int) -> str:
        rows: list[list[str]] = []
        for row in _children(element, "tr"):
            changed = first(row, "trPr")
            if first(changed, "del") is not None:
                continue
            before = _value(changed, "gridBefore")
            cells = [""] * (min(int(before), 63) if before.isdecimal() else 0)
            for cell in _children(row, "tc"):
                shape = first(cell, "tcPr")
                span, merged = _value(shape, "gridSpan"), first(shape, "vMerge")
                text = "\n".join(self._cell(cell, depth))
                if not text and merged is not None and attribute(merged, "val", "continue") == "continue" and rows:
                    text = rows[-1][len(cells)] if len(rows[-1]) > len(cells) else ""
                cells += [text, *[""] * (min(int(span), 63) - 1 if span.isdecimal() else 0)]
            rows.append(cells)
        if len(rows) == 1 and len(rows[0]) == 1:  # a frame around a text
            return rows[0][0]
        return markup.table(rows)

    def _cell(self, cell: Element, depth: int) -> Iterator[str]:
        for child in cell:
            name = local(child)
            if name == "p":
                yield self._text(child).strip()
            elif name == "tbl" and depth < _MAX_NESTED:
                yield "; ".join(", ".join(filter(None, row)) for row in self._nested_rows(child, depth + 1))
            elif name in _WRAPPERS and depth < _MAX_NESTED:
                yield from self._cell(child, depth + 1)

    def _nested_rows(self, element: Element, depth: int) -> Iterator[list[str]]:
        for row in _children(element, "tr"):
            yield [" ".join(filter(None, self._cell(cell, depth))) for cell in _children(row, "tc")]


def _children(element: Element, name: str) -> Iterator[Element]:
    """Children of a name, also those in content controls and insertions."""
    for child in element:
        if local(child) == name:
            yield child
        elif local(child) in _WRAPPERS:
            yield from _children(child, name)


def _outermost(element: Element, name: str) -> Iterator[Element]:
    """Descendants of a name that are in none of that name; of alternatives the first."""
    waiting = [element]
    while waiting:
        node = waiting.pop()
        if local(node) == name:
            yield node
            continue
        children = list(node)
        if local(node) == "AlternateContent":
            children = children[:1]
        waiting += reversed(children)


def _value(element: Element | None, name: str) -> str:
    found = first(element, name)
    return "" if found is None else attribute(found, "val")


def _outline(properties: Element | None, default: int) -> int:
    own = _value(properties, "outlineLvl")
    return int(own) if own.isdecimal() else default


def _styles(root: Element | None) -> tuple[dict[str, int], dict[str, str]]:
    """The outline level of each style that has one, from 0, -1 for the title; the list of each style that has one."""
    levels: dict[str, int] = {}
    lists: dict[str, str] = {}
    based_on = {}
    for style in descendants(root, "style"):
        key, name, properties = attribute(style, "styleId"), _value(style, "name"), first(style, "pPr")
        named = _HEADING_NAME.fullmatch(name)
        level = int(named[1]) - 1 if named else _TITLE if name.lower() == "title" else _BODY_LEVEL
        level = _outline(properties, level)
        if level < _BODY_LEVEL:
            levels[key] = level
        if number_id := _value(first(properties, "numPr"), "numId"):
            lists[key] = number_id
        based_on[key] = _value(style, "basedOn")
    for key in based_on:
        parent = based_on[key]
        for _ in range(_MAX_NESTED):
            if parent in levels and key not in levels:
                levels[key] = levels[parent]
            if parent in lists and key not in lists:
                lists[key] = lists[parent]
            parent = based_on.get(parent, "")
    return levels, lists


def _list_formats(root: Element | None) -> dict[tuple[str, int], str]:
    """The format of each level of each list: bullet, decimal, upperRoman."""
    abstract: dict[str, dict[int, str]] = {}
    found: dict[tuple[str, int], str] = {}
    for element in () if root is None else root:
        if local(element) == "abstractNum":
            levels = ((attribute(level, "ilvl"), _value(level, "numFmt")) for level in descendants(element, "lvl"))
            abstract[attribute(element, "abstractNumId")] = {int(key): name for key, name in levels if key.isdecimal()}
        elif local(element) == "num":
            for level, name in abstract.get(_value(element, "abstractNumId"), {}).items():
                found[attribute(element, "numId"), level] = name
    return found
