"""reStructuredText to Markdown, with docutils; directives and roles that Sphinx adds count as their content.

Nothing is included or fetched, and raw HTML is left out.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from docutils import core, nodes
from docutils.parsers.rst import Directive, directives, roles, states

from heal_tasks.sources.encodings import read_text
from heal_tasks.sources.extract import Extract
from heal_tasks.sources.formats import markup

_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 5,
    "halt_level": 5,
    "_disable_config": True,
    "docinfo_xform": False,
    "input_encoding": "unicode",
}
# Their content is not text of the page: names of other pages, of modules to read, of entries in an index.
_NO_TEXT = frozenset({
    "toctree", "index", "currentmodule", "module", "highlight", "automodule", "autoclass", "autofunction", "automethod",
    "autosummary", "tabularcolumns", "default-domain", "meta", "plot",
})  # fmt: skip
_HIDDEN = (nodes.comment, nodes.substitution_definition, nodes.target, nodes.pending, nodes.raw, nodes.image)
_CODE = (nodes.literal_block, nodes.doctest_block)
_NO_LINE = (*_HIDDEN, *_CODE)
_ROLE = re.compile(r":[\w:+.-]+:`([^`]*)`")
_TARGET = re.compile(r"\s*<[^<>]*>\Z")


def extract_rst(data: bytes, max_chars: int) -> Extract:
    """Extract the text of a page; its title is the first heading.

    Raises:
        UnicodeDecodeError: see ``read_text``.
    """
    del max_chars  # a page's text is about as long as the page
    text, guessed = read_text(data)
    known = directives.directive, roles.role
    directives.directive, roles.role = _directive, _role
    try:
        document = core.publish_doctree(text, settings_overrides=_SETTINGS)
    finally:
        directives.directive, roles.role = known
    for mark in [*document.findall(nodes.footnote_reference), *document.findall(nodes.citation_reference)]:
        mark.children = [nodes.Text(f"[^{mark.astext()}]")]
    title = next(iter(document.findall(nodes.title)), None)
    parts = list(_blocks(document, 2 if title is not None and title.parent is document else 1))
    return Extract(
        "" if title is None else _line(title), markup.blocks(parts), {"encoding_guessed": guessed} if guessed else {}
    )


class _Options(dict[str, Any]):
    """Takes every option as it is."""

    def __missing__(self, name: str) -> Any:
        return directives.unchanged


class _Unknown(Directive):  # type: ignore[misc]  # docutils has no types
    """A directive that docutils does not know: its argument and its content."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = _Options(name=directives.unchanged)

    def run(self) -> list[nodes.Node]:
        """The nodes of the content."""
        if self.name.rpartition(":")[2] in _NO_TEXT:
            return []
        node = nodes.container()
        if self.arguments:
            node += nodes.paragraph("", self.arguments[0])
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


class _Code(_Unknown):
    """A block of code, whose options Sphinx has more of than docutils."""

    def run(self) -> list[nodes.Node]:
        """The block."""
        return [nodes.literal_block("", "\n".join(self.content))]


_find_directive, _find_role = directives.directive, roles.role


def _directive(name: str, language: Any, document: Any) -> tuple[Any, list[Any]]:
    if name in {"code-block", "sourcecode", "code"}:
        return _Code, []
    found, messages = _find_directive(name, language, document)
    return (found, messages) if found else (_Unknown, [])


def _role(name: str, language: Any, line: int, reporter: Any) -> tuple[Any, list[Any]]:
    found, messages = _find_role(name, language, line, reporter)
    return (found, messages) if found else (_unknown_role, [])


def _unknown_role(
    name: str, source: str, text: str, line: int, inliner: states.Inliner, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[Any]]:
    del name, line, inliner, options, content
    return [nodes.inline(source, _TARGET.sub("", nodes.unescape(text)).lstrip("~!"))], []


def _blocks(parent: nodes.Element, level: int) -> Iterator[str]:
    """The blocks below a node; the headings of its sections have the level, and its own is one higher."""
    for node in parent.children:
        if isinstance(node, _HIDDEN):
            continue
        if isinstance(node, nodes.title | nodes.subtitle):
            yield markup.heading(level - 1, _line(node))
        elif isinstance(node, nodes.section):
            yield from _blocks(node, level + 1)
        elif isinstance(node, nodes.bullet_list | nodes.enumerated_list):
            yield from _list(node, 0)
        elif isinstance(node, nodes.table):
            yield from _table(node)
        elif isinstance(node, _CODE):
            yield markup.fenced(node.astext())
        elif isinstance(node, nodes.definition_list | nodes.field_list | nodes.option_list):
            yield from _definitions(node)
        elif isinstance(node, nodes.footnote | nodes.citation):
            label, *others = [" ".join(child.astext().split()) for child in node.children] or [""]
            yield f"[^{label}]: {' '.join(others)}"
        elif isinstance(node, nodes.system_message):
            yield from (_clean(child.astext()) for child in node.children if isinstance(child, nodes.literal_block))
        elif isinstance(node, nodes.line_block):
            yield "\n".join(_clean(child.astext()) for child in node.children)
        elif isinstance(node, nodes.TextElement):
            yield _line(node)
        elif isinstance(node, nodes.Element):
            yield from _blocks(node, level + 1)


def _list(parent: nodes.Element, depth: int) -> Iterator[str]:
    numbered = isinstance(parent, nodes.enumerated_list)
    for number, child in enumerate(parent.children, start=parent.get("start", 1)):
        texts: Sequence[nodes.Node] = child.children
        # Comments and code are elements with a text, too.
        lines = [node for node in texts if isinstance(node, nodes.TextElement) and not isinstance(node, _NO_LINE)]
        yield markup.item(" ".join(map(_line, lines)), depth, number if numbered else None)
        for node in texts:
            if isinstance(node, nodes.bullet_list | nodes.enumerated_list):
                yield from _list(node, depth + 1)
            elif node not in lines:
                holder = nodes.container()
                holder.children = [node]
                yield from _blocks(holder, markup.MAX_LEVEL)


def _definitions(parent: nodes.Element) -> Iterator[str]:
    """Terms, names of fields and options, each with what is said of it."""
    for child in parent.children:
        if isinstance(child, nodes.Element) and child.children:
            *names, body = child.children
            first, *others = (list(_blocks(body, markup.MAX_LEVEL)) if isinstance(body, nodes.Element) else []) or [""]
            yield f"{', '.join(' '.join(node.astext().split()) for node in names)}: {first}"
            yield from others


def _table(table: nodes.Element) -> Iterator[str]:
    yield from (_line(node) for node in table.children if isinstance(node, nodes.title))
    rows: list[list[str]] = []
    covered: dict[int, tuple[int, str]] = {}  # by column: rows that a cell above still covers, and its text
    for row in table.findall(nodes.row):
        texts: list[str] = []
        entries = list(row.children)
        while entries or len(texts) in covered:
            if len(texts) in covered:
                left, text = covered.pop(len(texts))
                if left > 1:
                    covered[len(texts)] = left - 1, text
                texts.append(text)
                continue
            entry = entries.pop(0)
            text = " ".join(_clean(entry.astext()).split())
            down, across = (int(entry.get(name, 0)) if isinstance(entry, nodes.Element) else 0
                            for name in ("morerows", "morecols"))  # fmt: skip
            if down:
                covered[len(texts)] = down, text
            texts += [text, *[""] * across]
        rows.append(texts)
    yield markup.table(rows)


def _line(node: nodes.Node) -> str:
    return " ".join(_clean(node.astext()).split())


def _clean(text: str) -> str:
    return _ROLE.sub(lambda found: _TARGET.sub("", found[1]).lstrip("~!"), text)
