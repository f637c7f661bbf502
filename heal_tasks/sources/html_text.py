"""HTML to Markdown, the text that a reader of the page sees, with lexbor, a parser that builds the tree as browsers do.

Compared on pages of 500 KB and on 14 hostile inputs, such as 10,000 times ``<a``: lexbor takes 10 ms for the page and
at most .4 s for a hostile input; lxml 35 ms, but it builds HTML 4's tree and loses text below 250 nested elements;
html5lib 480 ms; bs4 with html.parser 670 ms, and it is quadratic in unclosed tags (30 KB: 6 s).
Lexbor is quadratic in depth: 100,000 nested elements take more than the time that a file has.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from heal_tasks.sources.encodings import read_html
from heal_tasks.sources.extract import Extract
from heal_tasks.sources.formats import markup
from heal_tasks.sources.html_tables import table_rows
from heal_tasks.sources.records import is_visible

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

INVISIBLE_TAGS = frozenset({
    "annotation", "annotation-xml", "applet", "audio", "canvas", "datalist", "desc", "head", "iframe", "metadata",
    "noembed", "noframes", "object", "rp", "rt", "script", "style", "template", "title", "video",
})  # fmt: skip
# Hidden as well, but only on pages that close all of them: an article must not vanish in a menu that nobody closed.
CLOSED_INVISIBLE_TAGS = ("nav", "noscript", "dialog")
BLOCK_TAGS = frozenset({
    "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details", "dialog", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "legend",
    "li", "main", "nav", "ol", "option", "p", "pre", "search", "section", "summary", "table", "textarea", "tr", "ul",
})  # fmt: skip
CELL_TAGS = frozenset({"td", "th"})
HEADING_TAGS = {f"h{level}": level for level in range(1, 7)}
PREFORMATTED_TAGS = frozenset({"pre", "textarea", "listing"})

_NOT_DISPLAYED = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)\b", re.IGNORECASE)
_MAX_STYLE_CHARS = 2000
_MAX_HEADINGS = 20  # looked at for a title: thousands of empty ones, nested, would take long
_WHITE_SPACE = re.compile(r"\s+")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


# In XHTML ``<script/>`` and ``<h2/>`` end where they begin; a parser of HTML takes all that follows for their content.
_XHTML = re.compile(r"\s*<\?xml|xmlns\s*=\s*[\"']http://www\.w3\.org/1999/xhtml")
_XHTML_WITHIN_CHARS = 2000
_EMPTY_ELEMENT = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr)\b)([a-z][\w:.-]*)(\s[^<>]*)?/>",
    re.IGNORECASE,
)


def extract_html(data: bytes, max_chars: int) -> Extract:
    """Extract the visible text of a page; its title is the title tag, else the first h1 with text.

    Raises:
        UnicodeDecodeError: see ``read_html``.
    """
    from selectolax.lexbor import LexborHTMLParser, SelectolaxError

    del max_chars  # a page's text is shorter than the page
    text, guessed = read_html(data)
    if _XHTML.search(text[:_XHTML_WITHIN_CHARS]):
        text = _EMPTY_ELEMENT.sub(r"<\1\2></\1>", text)
    try:
        tree = LexborHTMLParser(text.encode("utf-8", "replace"))
    except SelectolaxError as error:  # every page can be parsed; only memory can be missing
        raise MemoryError from error
    body = tree.body
    if body is None:  # a page of frames
        return Extract("", "")
    markup = _COMMENT.sub("", text)
    hidden = INVISIBLE_TAGS.union(tag for tag in CLOSED_INVISIBLE_TAGS if _all_closed(markup, tag))
    found = _joined(_parts(body, hidden))
    if not is_visible(found):  # all of it is in a menu
        found = _joined(_parts(body, INVISIBLE_TAGS))
    return Extract(_title(tree), found, {"encoding_guessed": guessed} if guessed else {})


def _all_closed(text: str, tag: str) -> bool:
    opened = len(re.findall(rf"<{tag}[\s>]", text, re.IGNORECASE))
    return len(re.findall(rf"</{tag}[\s>]", text, re.IGNORECASE)) >= opened


def _title(tree: Any) -> str:
    """The text of the head's title, else of the first h1 that has some; an svg's title is that of a picture."""
    for node in tree.tags("title")[:_MAX_HEADINGS]:
        if not _in_picture(node) and (title := _line(node)):
            return title
    return next((title for node in tree.tags("h1")[:_MAX_HEADINGS] if (title := _line(node))), "")


def _in_picture(node: "LexborNode") -> bool:
    parent = node.parent
    while parent is not None and parent.tag not in {"svg", "math", "head", "body"}:
        parent = parent.parent
    return parent is not None and parent.tag in {"svg", "math"}


def _line(node: "LexborNode") -> str:
    line = " ".join(_joined(_parts(node, INVISIBLE_TAGS, structured=False)).split())
    return line if is_visible(line) else ""


def _joined(parts: Iterator[str]) -> str:
    """One line per block, without blanks at the ends of lines, at most one empty line in a row."""
    lines = (line.rstrip() for line in "".join(parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _whole(node: "LexborNode", tag: str, hidden: frozenset[str]) -> str | None:
    """The Markdown of a heading, a table or a block of code; None for another element, and for a table of layout."""
    if tag in HEADING_TAGS:
        return markup.heading(HEADING_TAGS[tag], "".join(_parts(node, hidden, structured=False)))
    if tag == "pre":
        code = "".join(_parts(node, hidden, structured=False)).strip("\n")
        return markup.fenced(code) if "\n" in code else None
    if tag != "table":
        return None
    found = table_rows(node, lambda cell: "".join(_parts(cell, hidden, structured=False)))
    return None if found is None else f"{found[0]}\n\n{markup.table(found[1])}"


def _parts(root: "LexborNode", hidden: frozenset[str], *, structured: bool = True) -> Iterator[str]:
    """Text as a reader sees it: inline tags do not break lines, ``pre`` is kept as it is.

    If ``structured``, headings, tables and code are Markdown.

    The root counts as visible: scripts show a body that is hidden until they run.
    The tree is walked without recursion: thousands of nested elements are ordinary on broken pages.
    """
    preformatted = int(root.tag in PREFORMATTED_TAGS)
    open_nodes: list[LexborNode] = []
    node: LexborNode | None = root
    while node is not None:
        tag = node.tag or ""
        child = None
        if tag == "-text":
            content = node.text(deep=False) or ""
            yield content if preformatted else _WHITE_SPACE.sub(" ", content)
        elif not tag.startswith(("-", "!")) and not (open_nodes and _is_hidden(node, tag, hidden)):
            whole = _whole(node, tag, hidden) if structured and open_nodes and not preformatted else None
            yield _gap(tag) if whole is None else f"\n\n{whole}\n\n"
            child = node.child if whole is None else None
            if child is None and tag != "br":
                yield _gap(tag)
        if child is not None:
            preformatted += tag in PREFORMATTED_TAGS
            open_nodes.append(node)
            node = child
            continue
        node = node.next if open_nodes else None
        while node is None and open_nodes:
            closed = open_nodes.pop()
            preformatted -= closed.tag in PREFORMATTED_TAGS
            yield _gap(closed.tag or "")
            node = closed.next if open_nodes else None


def _is_hidden(node: "LexborNode", tag: str, hidden: frozenset[str]) -> bool:
    if tag in hidden:
        return tag != "dialog" or "open" not in node.attributes
    attributes = node.attributes
    if not attributes:
        return False
    if "hidden" in attributes:  # what is hidden until it is found is meant to be found
        return (attributes["hidden"] or "").strip().lower() != "until-found"
    style = attributes.get("style") or ""
    return _NOT_DISPLAYED.search(style[:_MAX_STYLE_CHARS]) is not None


def _gap(tag: str) -> str:
    """White space in place of a tag, where it begins and where it ends."""
    return "\n" if tag in BLOCK_TAGS else " " if tag in CELL_TAGS else ""
