"""Text that can be stored and sent: Postgres and JSON over HTTP take neither NUL nor half a surrogate pair."""

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Replace NUL characters and lone surrogates by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def unstorable(text: str) -> str | None:
    """Name the character that keeps a text from being stored; None if it has none."""
    found = _UNSTORABLE.search(text)
    if found is None:
        return None
    return "a NUL character (U+0000)" if found[0] == "\0" else "half of a surrogate pair"
