"""Patterns of paths in the tables of ``sources.toml``: ``*.md``, ``manuals/**``, ``**/draft-?.txt``."""

import re
from collections.abc import Sequence
from functools import lru_cache

_PART = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_MEANING = {"**/": r"(?:[^/]*/)*", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
_HOST = re.compile(r"https?://[^/]*/?")


def is_chosen(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """True if a path fits one of ``include``, or there are none, and fits none of ``exclude``.

    ``*`` and ``?`` stand for characters other than ``/``, ``**`` for any. A pattern without ``/`` is one of the name,
    in any folder. Upper and lower case differ. Of a URL the path counts, with its query.
    """
    path = _HOST.sub("", path, count=1) if path.startswith("http") else path
    return (not include or _fits(path, tuple(include))) and not _fits(path, tuple(exclude))


def _fits(path: str, patterns: tuple[str, ...]) -> bool:
    return bool(patterns) and _compiled(patterns).fullmatch(path) is not None


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    anywhere = [pattern.removeprefix("/") if "/" in pattern else f"**/{pattern}" for pattern in patterns]
    parts = ("".join(_MEANING.get(part) or re.escape(part) for part in _PART.findall(text)) for text in anywhere)
    return re.compile("|".join(f"(?:{part})" for part in parts), re.DOTALL)
