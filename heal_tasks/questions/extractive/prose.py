"""Finds the sentences of running prose in a chunk, between code, tables and parameter lists.

Half of a documentation page is such markup, and questions made from it are useless. Lines are classified first, because
indentation ends a block; each sentence keeps its exact text in the chunk.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_SKIPPED_SECTIONS = re.compile(
    r"(?:(?:other |keyword )?(?:param(?:eter)?s|arg(?:ument)?s|kwargs)|returns?|yields|receives|raises|warns|see also"
    r"|usage|references|bibliography|examples?|attributes|methods|propert(?:y|ies)|fields|shapes?|inputs?|outputs?|default|todo"
    r"|authors?|licen[sc]e|copyright|(?:table of )?contents):?",
    re.IGNORECASE,
)
_KEPT_DIRECTIVES = frozenset({"note", "warning", "tip", "important", "hint", "attention", "caution", "danger", "topic"})

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_UNDERLINE = re.compile(r"\s*([-=~^\"'*+#])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"\s*\.\. *([\w:-]*?)::")
_FOOTNOTE = re.compile(r"\s*(?:\.\. )?\[[\w#]+\]_? ")
_COMMENT = re.compile(r"\s*\.\. ")
_FIELD = re.compile(r"\s*(?::\w[^:`]*:(?: |$)|@\w+ )")
_NAME = r"[*`\"']{0,2}[\w.]+[*`\"']{0,2}"
# A long line with a full stop at its end is a sentence: French has a blank before a colon.
_PARAMETER = re.compile(
    rf"\s*(?:{_NAME}(?: *, *{_NAME})* :(?: \S.{{0,60}}| \S.*[^.!?\s])?$|[\w*]+ \([^)]*\): |[\w*]+ -- )"
)
_GOOGLE_SECTION = re.compile(r"\s*([A-Z][A-Za-z ]{2,20}):\s*$")
_HEADING = re.compile(r"\s*#{1,6} ")
_RULE = re.compile(r"[\s=+|\-_.~*:]*$")
_COLUMNS = re.compile(r"\S {3,}\S.*\S {3,}\S|\|.*\|")
_CODE = re.compile(
    r"\s*(?:>>>|\.\.\. |\$ |In \[\d+\]|(?:import|from) \w[\w.]* ?(?:import .*)?$"
    r"|(?:def|class|return|raise|with|for) .*[:(]$)"
)
_ITEM = re.compile(r"\s*(?:[-*+•] +|\(?\d{1,2}[.)] +|\([a-z]\) +)")

_TABLE_RULE = re.compile(r"\s*=+(?: +=+)+\s*$")

# ``:role:`target```; a tilde asks for the last part of a dotted name, and private first parts are never shown.
_ROLE = re.compile(r":[\w:+-]+:`(~?)[.!]*(?:_\w+\.)?([^`<]*?)\s*(?:<[^`>]*>)?`")
# Before a small letter a full stop is one of an abbreviation; scripts without capital letters have marks of their own,
# and Thai and Lao blanks only.
_END = re.compile(
    r"[.!?؟۔।॥።։][\"'”’»)\]`*]*(?=\s+[\"'“‘«„¿¡(\[`*:]*([^\W_a-z]))|[。！？｡။។།][\"'”’»」』）)\]]*(?=\s*\S)"
    r"|(?<=[\u0e00-\u0eff])(?=\s+[\u0e00-\u0eff])"
)
_COMPLETE = re.compile(r"[.!?؟۔।॥።։。！？｡။។།][\"'”’»」』）)]*$")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|et al|etc|vs|cf|Fig|Figs|Eq|Eqs|Ref|Refs|Dr|Mr|Mrs|Ms|Prof|St|No|Nos|approx|ca|resp|Inc|Ltd|Co"
    r"|Jr|Sr|Nr|Abb|bzw|vgl|núm|рис|табл|стр|vol|pp|ed|eds|spp|sp|subsp|var|Sec|Ch|Thm|[A-Z])|\b[A-Z]\.[A-Z])\.$"
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a chunk."""

    evidence: str  # its exact text in the chunk, with line breaks and markup
    text: str  # the same without markup, on one line
    complete: bool  # it ends with a full stop, exclamation or question mark of its script
    first: bool  # it is the chunk's first


def sentences(text: str) -> list[Sentence]:
    """Find the sentences of running prose in plain text, reStructuredText (numpydoc, Google, Sphinx) or Markdown.

    None are from code, doctests, tables, parameter lists, references and headings.
    """
    found: list[Sentence] = []
    for start, end in _blocks(text):
        for first, last in _split(text, start, end):
            evidence = text[first:last].strip()
            if clean := plain(evidence):
                found.append(Sentence(evidence, clean, bool(_COMPLETE.search(clean)), not found))
    return found


def plain(text: str) -> str:
    """Remove reStructuredText, Markdown and HTML markup and line breaks."""
    text = re.sub(r"</?[a-zA-Z][^<>]{0,80}>", " ", text)
    text = re.sub(r"!?\[([^\]]+)\]\([^)\s]*\)", r"\1", text)
    text = _ROLE.sub(lambda role: role[2].rsplit(".", 1)[-1] if role[1] else role[2], text)
    text = re.sub(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}", r"\1", text)
    text = re.sub(r"`+([^`]*)`+_{0,2}", r"\1", text)
    text = re.sub(r"\s*\[[\w#*, -]{1,12}\]_", "", text)
    text = re.sub(r"(?<!\w)(\*{1,2})(\S(?:[^*]*\S)?)\1(?!\w)", r"\2", text)
    text = re.sub(r"\s*<?\b(?:https?|ftp)://[^\s>]+[^\s>.,;)]>?", "", text)
    return " ".join(text.split())


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive lines of prose."""
    block: tuple[int, int] | None = None
    in_section = in_output = in_table = False
    fence = ""
    skip_deeper_than: float = math.inf
    offset = 0
    for line, following in pairwise([*text.splitlines(keepends=True), ""]):
        start, offset = offset, offset + len(line)
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        usable = False
        mark = _FENCE.match(line)
        if mark and mark[1].startswith(fence):
            fence = "" if fence else mark[1]
        elif fence:
            pass
        elif not stripped:
            in_output = in_table = False
        elif in_table or _TABLE_RULE.match(line):
            in_table = True
        elif _UNDERLINE.match(following) and len(stripped) <= 60 and not _RULE.match(line):
            in_section, skip_deeper_than = bool(_SKIPPED_SECTIONS.fullmatch(stripped)), math.inf
        elif in_section or _UNDERLINE.match(line) or skip_deeper_than < indent:
            pass
        else:
            skip_deeper_than = math.inf
            section = _GOOGLE_SECTION.match(line)
            if section and _SKIPPED_SECTIONS.fullmatch(section[1]):
                skip_deeper_than = indent
            elif directive := _DIRECTIVE.match(line):
                skip_deeper_than = math.inf if directive[1] in _KEPT_DIRECTIVES else indent
            elif any(pattern.match(line) for pattern in (_FOOTNOTE, _COMMENT, _FIELD, _PARAMETER)):
                skip_deeper_than = indent
            elif _CODE.match(line) or in_output:
                in_output = in_output or stripped.startswith(">>>")
            else:
                usable = not (_HEADING.match(line) or _RULE.match(line) or _COLUMNS.search(line))
                if stripped.endswith("::"):
                    skip_deeper_than = indent
        item = _ITEM.match(line)
        if block and (item or not usable):
            yield block
            block = None
        if usable:
            block = (block[0] if block else start + (item.end() if item else 0), offset)
    if block:
        yield block


def _split(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in _END.finditer(text, start, end):
        following = match[1] or ""
        small = following.islower() and following != following.title()  # Georgian has no capitals in sentences
        if small or _ABBREVIATION.search(text, max(start, match.start() - 12), match.start() + 1):
            continue
        yield start, match.end()
        start = match.end()
    yield start, end
