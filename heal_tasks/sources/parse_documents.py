"""Plain text, Markdown, HTML and PDF to documents: one document per file with the path as its id."""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from heal_tasks.core.types import Record, Rejected
from heal_tasks.sources.records import build_record, decode, reject

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

# CommonMark: up to three blanks of indentation, closing hashes dropped.
_ATX_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_SETEXT_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")

# Without head: its end tag is optional, and the parser would put the whole page into it.
INVISIBLE_TAGS = frozenset({"script", "style", "nav", "template", "noscript", "title"})
BLOCK_TAGS = frozenset({
    "address", "article", "aside", "blockquote", "br", "caption", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol",
    "option", "p", "pre", "section", "summary", "table", "tr", "ul",
})  # fmt: skip
CELL_TAGS = frozenset({"td", "th"})


def parse_txt(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Parse text in UTF-8, or UTF-16 with a byte order mark; its title is the file name without suffix."""
    yield _document(path, "", decode(data), max_chars)


def parse_md(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Take Markdown as it is, encoded like text; its title is the first heading outside code blocks."""
    text = decode(data)
    yield _document(path, _first_heading(text), text, max_chars)


def parse_html(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Extract the visible text of an HTML page; its title is the title tag, else the first h1.

    The encoding is UTF-8, UTF-16 with a byte order mark, or the one that the page declares.
    """
    from bs4 import BeautifulSoup, ParserRejectedMarkup

    text = _decode_html(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # bs4 warns where a page looks like a file name or like XML
            soup = BeautifulSoup(text, "html.parser")
        heading = soup.find("title") or soup.find("h1")
        title = heading.get_text(" ") if heading is not None else ""
        body = _visible_text(soup)
    except (ParserRejectedMarkup, ValueError, RecursionError) as error:
        reason = f"HTML that cannot be read ({type(error).__name__}: {error}); save it again from a browser"
        yield reject(path, 0, reason, text)
        return
    yield _document(path, title, body, max_chars)


def parse_pdf(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Extract the text of a PDF, pages separated by a blank line; its title comes from its metadata.

    If one page cannot be read, the whole file is rejected: a document with a missing page would look complete. Reading
    stops after ``max_chars`` characters.
    """
    place = "the file"
    try:
        with _silenced("pypdf"):
            from pypdf import PdfReader

            reader = PdfReader(io.BytesIO(data))
            if reader.is_encrypted and not reader.decrypt(""):
                yield reject(path, 0, "the PDF is encrypted; store it without a password")
                return
            pages: list[str] = []
            length = 0
            for number, page in enumerate(reader.pages, start=1):
                place = f"page {number}"
                pages.append(page.extract_text().strip())
                length += len(pages[-1])
                if length > max_chars:
                    break
            place = "the metadata"
            title = reader.metadata.title if reader.metadata is not None else None
    except Exception as error:  # pypdf documents that broken files raise anything, not only its own errors
        reason = f"PDF: {place} cannot be read ({type(error).__name__}: {error}); print it to a new PDF"
        yield reject(path, 0, reason)
        return
    body = "\n\n".join(page for page in pages if page)
    if not body:
        yield reject(path, 0, f"the PDF has no text on its {len(pages)} pages; run text recognition over it")
        return
    yield _document(path, title if isinstance(title, str) else "", body, max_chars, {"pages": len(pages)})


def _document(
    path: str, title: str, body: str, max_chars: int, metadata: Mapping[str, Any] | None = None
) -> Record | Rejected:
    return build_record(
        path,
        0,
        external_id=path,
        title=title if title.strip() else PurePosixPath(path).stem,
        body=body,
        metadata=metadata or {},
        max_chars=max_chars,
        raw=body,
    )


def _first_heading(text: str) -> str:
    fence, previous = "", ""
    lines = text.splitlines()
    if lines and lines[0].rstrip() == "---" and "---" in lines[1:]:
        lines = lines[lines.index("---", 1) + 1 :]  # front matter
    for line in lines:
        if (mark := _FENCE.match(line)) is not None:
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence) and not line.strip(" \t`~"):
                fence = ""
            previous = ""
            continue
        if fence:
            continue
        if (heading := _ATX_HEADING.match(line)) is not None and heading[1]:
            return heading[1]
        if previous and _SETEXT_UNDERLINE.match(line) is not None:
            return previous
        previous = line.strip()
    return ""


def _decode_html(data: bytes) -> str:
    """Decode as UTF-8 if possible, else as declared: wrong declarations are common, UTF-8 by accident is not."""
    from bs4.dammit import EncodingDetector

    try:
        return decode(data)
    except UnicodeDecodeError as error:
        declared = EncodingDetector.find_declared_encoding(data, is_html=True)
        if declared is None:
            raise
        try:
            return data.decode(declared)
        except (LookupError, ValueError):
            raise error from None


def _visible_text(soup: "BeautifulSoup") -> str:
    """Text as a reader sees it: one line per block, inline tags do not break lines, ``pre`` is kept as it is.

    The tree is only walked: every change of it takes bs4 time in proportion to its depth, and a page of thousands of
    unclosed paragraphs is thousands of levels deep.
    """
    from bs4.element import CData, NavigableString, PreformattedString, Tag

    parts: list[str] = []
    open_tags: list[Tag] = [soup]
    hidden = preformatted = 0
    for node in soup.descendants:
        while open_tags[-1] is not node.parent:
            name = open_tags.pop().name
            hidden -= name in INVISIBLE_TAGS
            preformatted -= name == "pre"
            parts.append(_gap(name))
        if isinstance(node, Tag):
            open_tags.append(node)
            hidden += node.name in INVISIBLE_TAGS
            preformatted += node.name == "pre"
            parts.append(_gap(node.name))
        elif hidden or not isinstance(node, NavigableString):
            continue
        elif isinstance(node, CData) or not isinstance(node, PreformattedString):  # comments, declarations
            parts.append(node if preformatted else re.sub(r"\s+", " ", node))
    lines = (line.rstrip() for line in "".join(parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _gap(tag_name: str) -> str:
    """White space in place of a tag, where it begins and where it ends."""
    return "\n" if tag_name in BLOCK_TAGS else " " if tag_name in CELL_TAGS else ""


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep a library's warnings about broken files out of the log; the reason is in quarantine."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
