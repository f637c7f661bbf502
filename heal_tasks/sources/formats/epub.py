"""E-books to Markdown: their chapters in reading order, each as the HTML page that it is."""

import posixpath
from urllib.parse import unquote

from heal_tasks.sources.extract import Extract, UnreadableError
from heal_tasks.sources.formats.ooxml import Archive, attribute, descendants
from heal_tasks.sources.formats.titles import chosen_title
from heal_tasks.sources.html_text import extract_html

_PAGES = frozenset({"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"})


def extract_epub(data: bytes, max_chars: int) -> Extract:
    """Extract the text of an e-book, its table of contents left out.

    Raises:
        UnreadableError: it is no e-book, is protected or broken, or has no text.
    """
    archive = Archive(data)
    container = archive.tree("META-INF/container.xml")
    place = next((attribute(item, "full-path") for item in descendants(container, "rootfile")), "")
    package = archive.tree(place) if place else None
    if package is None:
        raise UnreadableError(
            "the file is no e-book (META-INF/container.xml names no content); export it again as EPUB"
        )
    folder = posixpath.dirname(place)
    pages = {
        attribute(item, "id"): posixpath.normpath(posixpath.join(folder, unquote(attribute(item, "href"))))
        for item in descendants(package, "item")
        if attribute(item, "media-type") in _PAGES and "nav" not in attribute(item, "properties").split()
    }
    order = [pages[key] for item in descendants(package, "itemref") if (key := attribute(item, "idref")) in pages]
    locked = archive.tree("META-INF/encryption.xml")
    if not {unquote(attribute(item, "URI")) for item in descendants(locked, "CipherReference")}.isdisjoint(order):
        raise UnreadableError("the e-book is protected against copying; export it without protection")
    parts: list[str] = []
    length = 0
    for page in dict.fromkeys(order):
        parts.append(extract_html(archive.read(page), max_chars).body.strip())
        length += len(parts[-1])
        if length > max_chars:
            break
    body = "\n\n".join(filter(None, parts))
    if not body:
        raise UnreadableError(f"the e-book has no text in its {len(order)} chapters; it may consist of pictures")
    known = {
        name: " ".join((item.text or "").split())[:1000]
        for name, tag in (
            ("title", "title"),
            ("author", "creator"),
            ("language", "language"),
            ("publisher", "publisher"),
        )
        for item in list(descendants(package, tag))[:1]
    }
    known = {name: text for name, text in known.items() if text}
    return Extract(chosen_title(known.pop("title", "")), body, known | {"chapters": len(order)})
