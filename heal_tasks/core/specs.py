"""Specs of sources (``file:FOLDER``, ``s3://BUCKET/PREFIX``, ``source:NAME``): lists, checks, and containment."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from heal_tasks.core.ids import MAX_KEY_BYTES

FILE, S3, PYDOCS, SOURCE, TABLE = "file:", "s3://", "pydocs:", "source:", "table:"
FORMS = (
    "write file:FOLDER, s3://BUCKET/PREFIX, pydocs:PACKAGE, source:NAME (a table of sources.toml) or "
    "table:SCHEMA.TABLE (adopted), and one with blanks in double quotes"
)
_CONTROL = re.compile(r'[\x00-\x1f\x7f"]')


def split_specs(text: str) -> tuple[str, ...]:
    """Split at blanks, except inside double quotes; a backslash is a character like any other.

    Raises:
        ValueError: a double quote is never closed.
    """
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters, lexer.escape, lexer.quotes = True, "", "", '"'
    try:
        return tuple(lexer)
    except ValueError:
        raise ValueError(f"a double quote is not closed in {text!r}; close it, or leave all of them out") from None


def join_specs(specs: Iterable[str]) -> str:
    """The text that ``split_specs`` splits into these specs."""
    return " ".join(f'"{spec}"' if re.search(r"\s", spec) else spec for spec in specs)


def check_spec(spec: str) -> None:
    """Raise ValueError for a spec that is not understood."""
    if not spec.startswith((FILE, S3, PYDOCS, SOURCE, TABLE)):
        raise ValueError(f"unknown source {spec!r}; {FORMS}")
    if found := _CONTROL.search(spec):
        raise ValueError(f"source {spec!r} contains {found[0]!r}; rename the folder, prefix or table")
    if len(spec.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise ValueError(f"source {spec[:60]!r}... is longer than {MAX_KEY_BYTES} bytes; choose a shorter path")
    if spec.startswith(S3) and not {".", ".."}.isdisjoint(spec.removeprefix(S3).split("/")):
        # S3 itself knows no such steps, but servers of its protocol that store keys as files may follow them.
        raise ValueError(f"source {spec!r} has '.' or '..' in its prefix; write the prefix that is meant")


def is_within(spec: str, roots: Iterable[str]) -> bool:
    """True if a source lies in one of the roots, which are specs as well; ``pydocs:`` and the like mean all.

    Links and ``..`` in folders are followed first, so that the place that is read decides, and not its spelling.
    """
    return any(_lies_in(spec, root) for root in roots)


def _lies_in(spec: str, root: str) -> bool:
    for form in (FILE, S3, PYDOCS, SOURCE, TABLE):
        if spec.startswith(form) and root.startswith(form):
            inner, outer = spec.removeprefix(form), root.removeprefix(form)
            if form == FILE:
                return folder_of(inner).is_relative_to(folder_of(outer))
            if form == S3:
                (bucket, *parts), (root_bucket, *root_parts) = _prefix(inner), _prefix(outer)
                return bucket == root_bucket and parts[: len(root_parts)] == root_parts
            if form in (SOURCE, TABLE):
                return outer in ("", inner)
            return not outer or set(inner.split(",")) <= set(outer.split(","))
    return False


def folder_of(path: str) -> Path:
    """The folder that ``file:`` with this path means, links followed; ValueError for one that cannot be meant."""
    if not path:
        raise ValueError("'file:' names no folder; write file:FOLDER")
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # a circle of links, an unknown user's home
        raise ValueError(f"folder {path!r} cannot be resolved ({error}); correct the spec") from None


def _prefix(spec: str) -> list[str]:
    """Bucket and parts of the prefix."""
    bucket, _, prefix = spec.partition("/")
    prefix = prefix.strip("/")
    return [bucket, *prefix.split("/")] if prefix else [bucket]
