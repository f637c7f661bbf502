"""Notebooks to Markdown: their text as it is, code in fences, and what the code printed."""

import json
import re
from collections.abc import Iterator
from typing import Any

from heal_tasks.sources.encodings import decode
from heal_tasks.sources.extract import Extract, UnreadableError
from heal_tasks.sources.formats import markup
from heal_tasks.sources.html_text import extract_html
from heal_tasks.sources.markdown import first_heading

_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MAX_OUTPUT_CHARS = 4000
"""Of an output; what is longer is a log, and its beginning is kept."""


def extract_ipynb(data: bytes, max_chars: int) -> Extract:
    """Extract the text of a notebook; pictures and widgets are left out.

    Raises:
        UnreadableError: it is no notebook, or has no text.
    """
    try:
        notebook = json.loads(decode(data))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"the notebook is no JSON ({error}); save it again") from error
    cells = _cells(notebook)
    if cells is None:
        raise UnreadableError("the file is no notebook (it has no cells); save it again as .ipynb")
    language = _language(notebook)
    parts: list[str] = []
    length = 0
    for cell in cells:
        for part in _parts(cell, language, max_chars):
            parts.append(part)
            length += len(part)
        if length > max_chars:
            break
    body = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    if not body:
        raise UnreadableError(f"the notebook has no text in its {len(cells)} cells; delete it or fill it")
    texts = (_text(cell.get("source")) for cell in cells if cell.get("cell_type") == "markdown")
    metadata = {"cells": len(cells)} | ({"programming_language": language} if language else {})
    return Extract(next(filter(None, map(first_heading, texts)), ""), body, metadata)


def _cells(notebook: Any) -> list[dict[str, Any]] | None:
    """The cells of a notebook of format 4, or 3, which has them in worksheets."""
    if not isinstance(notebook, dict):
        return None
    found = notebook.get("cells")
    if found is None and isinstance(sheets := notebook.get("worksheets"), list):
        found = [cell for sheet in sheets if isinstance(sheet, dict) for cell in sheet.get("cells") or []]
    return [cell for cell in found if isinstance(cell, dict)] if isinstance(found, list) else None


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for name in ("language_info", "kernelspec"):
        info = metadata.get(name) if isinstance(metadata, dict) else None
        if isinstance(info, dict) and isinstance(
            found := info.get("name" if name == "language_info" else "language"), str
        ):
            return found[:40]
    return ""


def _parts(cell: dict[str, Any], language: str, max_chars: int) -> Iterator[str]:
    kind = cell.get("cell_type")
    text = _text(cell.get("source", cell.get("input")))
    if kind == "heading":
        level = cell.get("level")
        yield f"{'#' * (level if isinstance(level, int) and 0 < level < 7 else 1)} {' '.join(text.split())}"
    elif kind == "code":
        if text.strip():
            yield markup.fenced(text.rstrip(), language)
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else []:
            if isinstance(output, dict):
                yield _output(output, max_chars)
    else:
        yield text


def _output(output: dict[str, Any], max_chars: int) -> str:
    """The text and tables that a cell printed or showed; of an error its name and message."""
    if output.get("output_type") in {"error", "pyerr"}:
        message = _printed(f"{_text(output.get('ename'))}: {_text(output.get('evalue'))}")
        return markup.fenced(message[:_MAX_OUTPUT_CHARS].rstrip())
    shown = output.get("data", output)
    if not isinstance(shown, dict):
        return ""
    if markdown := _text(shown.get("text/markdown")):
        return markdown[:_MAX_OUTPUT_CHARS]
    page = _text(shown.get("text/html", shown.get("html")))
    if "<table" in page and (table := extract_html(page.encode("utf-8", "replace"), max_chars).body.strip()):
        return table[:_MAX_OUTPUT_CHARS]
    text = _printed(_text(output.get("text", shown.get("text/plain")))).strip("\n")
    return markup.fenced(text[:_MAX_OUTPUT_CHARS].rstrip()) if text.strip() else ""


def _printed(text: str) -> str:
    """The text as a terminal shows it: without codes of colours; of a progress bar its last state."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in _TERMINAL_CODE.sub("", text).split("\n"))


def _text(value: Any) -> str:
    """A text, which notebooks write as a string or as a list of lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""
