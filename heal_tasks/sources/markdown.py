"""Markdown: front matter, and the first heading as the title.

Only the line of the title is parsed as Markdown; a whole file takes markdown-it a millisecond per kilobyte.
"""

import datetime
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from heal_tasks.core.acl import ACL_FIELD
from heal_tasks.sources.extract import UnreadableError

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_MAX_FRONT_MATTER_CHARS = 16 * 1024
# PyYAML takes time in proportion to the square of the depth of brackets.
_MAX_BRACKETS = 1000
# Python writes no longer ones as decimal digits; YAML and TOML read any length as hexadecimal.
_MAX_INTEGER_BITS = 4096
MAX_HEADING_CHARS = 2000
# Editors and templates leave these above the front matter.
_BLANK = "\ufeff \t\r\n"
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
# At the beginning of a line, or behind other tags there: "<div align=center><h1>Valves</h1>".
_HTML_HEADING = re.compile(
    r"[ \t]*(?:<(?!h[1-6]\b)[a-z][^<>]*>[ \t]*)*<h[1-6](?=[\s>])[^>]*>(.*?)</h[1-6]", re.IGNORECASE | re.DOTALL
)
# Above an underline a list or a quotation is no heading.
NO_PARAGRAPH = frozenset({"- ", "* ", "+ ", "> "})
# Attributes that documentation generators read: "# Valves {#valves}".
_ATTRIBUTES = re.compile(r"\{[#.:][^{}]*\}")
_ACL_LINE = re.compile(rf"^[\"']?{ACL_FIELD}[\"']?[ \t]*[:=]", re.MULTILINE | re.IGNORECASE)
_TITLE_LINE = re.compile(r"^title[ \t]*[:=][ \t]*(\S.*)$", re.MULTILINE | re.IGNORECASE)


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Split the front matter, YAML between ``---`` or TOML between ``+++``, from the text below it.

    Front matter that cannot be read, or is no mapping, or has more than 16,384 characters is part of the text; a line
    ``title: ...`` of it still counts, because a colon in an unquoted title is the most frequent error, else the first
    heading below it. Titles are as they are written: ``2.10`` and ``no`` are texts.

    Raises:
        UnreadableError: the front matter has a line ``acl: ...`` and cannot be read, or has no end.
    """
    whole, text = text, text.lstrip(_BLANK)
    mark = text[:3]
    first_end = text.find("\n", 3)
    if mark not in {"---", "+++"} or first_end < 0 or text[3:first_end].strip():
        return {}, whole
    ends = r"\n(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)" if mark == "---" else r"\n\+\+\+[ \t]*(?:\r?\n|\Z)"
    end = re.compile(ends).search(text, first_end, first_end + _MAX_FRONT_MATTER_CHARS)
    if end is None:
        # As a text it would be shown to everybody.
        if _ACL_LINE.search(text, first_end, first_end + _MAX_FRONT_MATTER_CHARS):
            raise UnreadableError(
                f"the front matter names readers in {ACL_FIELD} and has no line {mark} at its end within "
                f"{_MAX_FRONT_MATTER_CHARS} characters; add it"
            )
        return {}, text
    inside = text[first_end : end.start() + 1]
    bounded = inside.count("[") + inside.count("{") <= _MAX_BRACKETS
    found = (_yaml if mark == "---" else _toml)(inside) if bounded else None
    written = _TITLE_LINE.search(inside)
    title = written[1].strip(" \t\r\"'") if written else ""
    if not isinstance(found, dict) and _ACL_LINE.search(inside):
        raise UnreadableError(f"the front matter names readers in {ACL_FIELD} and cannot be read; correct it")
    if not isinstance(found, dict):
        return {"title": title or first_heading(text[end.end() :])}, text
    if not found and inside.strip():  # a heading between two lines is a comment of YAML
        return {}, text
    for name in [name for name in found if name.lower() == "title"]:
        given = found.pop(name)
        if given and not isinstance(given, dict | list):
            found["title"] = given if isinstance(given, str) else title
    return found, text[end.end() :]


def first_heading(text: str) -> str:
    """The first heading outside code blocks and comments, without its markup; empty if there is none."""
    fence, previous, comment = "", "", False
    place = 0
    for whole in text.splitlines(keepends=True):
        line = whole[:MAX_HEADING_CHARS].rstrip("\r\n")
        begin, place = place, place + len(whole)
        if comment or (not fence and line.lstrip().startswith("<!--")):
            comment = "-->" not in whole
            continue
        if (mark := FENCE.match(line)) is not None:
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence) and not line.strip(" \t`~"):
                fence = ""
            previous = ""
            continue
        if fence:
            continue
        heading = atx_heading(line)
        if not heading and line.lstrip()[:1] == "<" and "<h" in line.lower():
            tag = _HTML_HEADING.match(text[begin : begin + MAX_HEADING_CHARS])
            heading = tag[1] if tag else ""
        if not heading and previous and _SETEXT_UNDERLINE.fullmatch(line) is not None:
            heading = previous
        if heading and (title := plain_heading(heading)):
            return title
        previous = "" if line.lstrip()[:2] in NO_PARAGRAPH else line.strip()
    return ""


def atx_heading(line: str) -> str:
    """The text of a heading of CommonMark: up to three blanks, hashes, a blank, the text; closing hashes dropped."""
    unindented = line.lstrip(" ")
    text = unindented.lstrip("#")
    level = len(unindented) - len(text)
    if len(line) - len(unindented) > 3 or not 0 < level <= 6 or (text and text[0] not in " \t"):
        return ""
    text = text.strip()
    unclosed = text.rstrip("#")
    return unclosed.rstrip() if not unclosed or unclosed[-1] in " \t" else text


def plain_heading(heading: str) -> str:
    """The text of inline Markdown: without emphasis, links' addresses, tags and attributes."""
    heading = _ATTRIBUTES.sub("", heading).strip()
    if any(char in heading for char in "*_`[<&\\~!"):
        (line,) = _inline_parser().parseInline(" ".join(heading.split()))
        # Pictures are left out: their texts are mostly those of badges.
        shown = {"text", "text_special", "code_inline"}
        heading = "".join(part.content for part in line.children or () if part.type in shown)
    return " ".join(heading.split())


@lru_cache(maxsize=1)
def _inline_parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


def _yaml(text: str) -> Any:
    """YAML as JSON values; None if it cannot be read, or has aliases, which can stand for more than memory holds."""
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            return None
        return _json_value(yaml.safe_load(text) or {})
    except Exception:  # values with a tag that they do not have, such as "!!bool maybe", raise anything
        return None


def _toml(text: str) -> Any:
    import tomllib

    try:
        return _json_value(tomllib.loads(text.replace("\r\n", "\n")))
    except (ValueError, RecursionError):
        return None


def _json_value(value: Any) -> Any:
    """A value of YAML or TOML as JSON has it: dates as ISO text, keys as strings, other kinds as text."""
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_json_value(item) for item in (sorted(value, key=str) if isinstance(value, set) else value)]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)
