"""Presentations to Markdown: a heading per slide, its texts, tables, charts and diagrams, notes and comments."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from heal_tasks.sources.extract import Extract, UnreadableError
from heal_tasks.sources.formats import markup
from heal_tasks.sources.formats.charts import chart_table
from heal_tasks.sources.formats.ooxml import Archive, attribute, descendants, first, local, properties, relation_id
from heal_tasks.sources.formats.titles import chosen_title

_TITLES = frozenset({"title", "ctrTitle"})
_REPEATED = frozenset({"sldNum", "dt", "ftr", "hdr", "sldImg"})  # the same on every slide
_MAX_NESTED = 20


def extract_pptx(data: bytes, max_chars: int) -> Extract:
    """Extract the text of a presentation, hidden slides and notes included.

    Raises:
        UnreadableError: it is no presentation, is encrypted or broken.
    """
    archive = Archive(data)
    place = archive.main_part("ppt/presentation.xml")
    root = archive.tree(place)
    if root is None or local(root) != "presentation":
        raise UnreadableError("the file is no presentation (it has no slides); save it again as .pptx")
    relations = archive.relations(place)
    slides = (slide for slides in descendants(root, "sldIdLst") for slide in slides)
    ids = (relation_id(slide) for slide in slides)
    places = [relations[key].target for key in ids if key in relations]
    parts: list[str] = []
    titles: list[str] = []
    authors = _authors(archive, place)
    for number, slide in enumerate(places, start=1):
        title, texts = _slide(archive, slide, authors)
        titles.append(title)
        parts += [markup.heading(2, title or f"Slide {number}"), *texts]
        if sum(map(len, parts)) > max_chars:
            break
    if not any(titles) and len(parts) == len(places):
        raise UnreadableError("the presentation has no text on its slides; it may consist of pictures")
    known = properties(archive)
    return Extract(
        chosen_title(known.pop("title", ""), next(filter(None, titles), "")),
        markup.blocks(parts),
        known | {"slides": len(places)},
    )


def _slide(archive: Archive, place: str, authors: dict[str, str]) -> tuple[str, list[str]]:
    """Title and blocks of a slide."""
    root = archive.tree(place)
    relations = archive.relations(place)
    title, texts = "", list[str]()
    for kind, shape in _shapes(first(root, "cSld", "spTree")):
        if local(shape) == "graphicFrame":
            texts += _frame(archive, {key: item.target for key, item in relations.items()}, shape)
        elif kind in _TITLES and not title:
            title = " ".join(" ".join(_paragraphs(shape)).split())
        elif kind not in _REPEATED:
            texts.append("\n".join(_paragraphs(shape, listed=kind in {"body", "obj"})))
    for relation in relations.values():
        if relation.kind == "notesSlide":
            tree = first(archive.tree(relation.target), "cSld", "spTree")
            notes = [" ".join(_paragraphs(shape)) for kind, shape in _shapes(tree) if kind not in _REPEATED]
            if text := " ".join(filter(None, notes)).strip():
                texts.append(f"Notes: {text}")
        elif relation.kind == "comments":
            texts += _comments(archive.tree(relation.target), authors)
    return title, texts


def _shapes(tree: Element | None, depth: int = 0) -> Iterator[tuple[str, Element]]:
    """Kind of placeholder, and shape, in order, those of groups included."""
    for child in () if tree is None else tree:
        name = local(child)
        if name in {"sp", "cxnSp", "graphicFrame"}:
            holder = next(descendants(child, "ph"), None)
            yield "" if holder is None else attribute(holder, "type", "obj"), child
        elif name in {"grpSp", "AlternateContent", "Choice"} and depth < _MAX_NESTED:
            yield from _shapes(child, depth + 1)


def _paragraphs(shape: Element | None, *, listed: bool = False) -> Iterator[str]:
    """The paragraphs of a shape that are not empty; with ``listed`` as items of a list if there are several."""
    found = []
    for paragraph in descendants(shape, "p"):
        if text := "".join(_run(node) for node in paragraph.iter()).strip():
            layout = first(paragraph, "pPr")
            level = "" if layout is None else attribute(layout, "lvl")
            found.append((text, int(level) if level.isdecimal() else 0))
    for text, depth in found:
        yield markup.item(text, depth) if listed and len(found) > 1 else text


def _run(node: Element) -> str:
    name = local(node)
    return (node.text or "") if name == "t" else {"br": "\n", "tab": "\t"}.get(name, "")


def _frame(archive: Archive, targets: dict[str, str], frame: Element) -> Iterator[str]:
    """The table, chart or diagram in a frame."""
    for table in descendants(frame, "tbl"):
        rows: list[list[str]] = []
        for row in (item for item in table if local(item) == "tr"):
            cells: list[str] = []
            for cell in (item for item in row if local(item) == "tc"):
                text = " ".join(_paragraphs(cell))
                if attribute(cell, "vMerge") in {"1", "true"} and rows and len(rows[-1]) > len(cells):
                    text = text or rows[-1][len(cells)]
                cells.append(text)
            rows.append(cells)
        yield markup.table(rows)
    for chart in descendants(frame, "chart"):
        yield from chart_table(archive.tree(targets.get(attribute(chart, "id"), "")))
    for diagram in descendants(frame, "relIds"):
        root = archive.tree(targets.get(attribute(diagram, "dm"), ""))
        for point in descendants(root, "pt"):
            yield from (markup.item(text) for text in _paragraphs(point))


def _comments(root: Element | None, authors: dict[str, str]) -> Iterator[str]:
    for comment in descendants(root, "cm", "reply"):
        text = " ".join((node.text or "") for node in _own(comment) if local(node) in {"text", "t"})
        if text.strip():
            yield f"Comment ({authors.get(attribute(comment, 'authorId'), 'unknown')}): {' '.join(text.split())}"


def _own(comment: Element) -> Iterator[Element]:
    """Descendants of a comment that are not in a reply to it."""
    for child in comment:
        if local(child) not in {"reply", "replyLst"}:
            yield child
            yield from _own(child)


def _authors(archive: Archive, place: str) -> dict[str, str]:
    places = (item for kind in ("commentAuthors", "authors") for item in archive.related(place, kind))
    return {
        attribute(author, "id"): attribute(author, "name")
        for item in places
        for author in descendants(archive.tree(item), "cmAuthor", "author")
    }
