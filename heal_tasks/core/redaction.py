"""Messages without passwords and keys: errors, log lines, and whatever is stored or printed about a run.

Two kinds of secrets are found: those that look like one (user and password in a URL, ``password=..``, bearer tokens,
keys of OpenAI), and those that ``remember`` was told, wherever they occur.
"""

import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

MASK = "***"

_SHORTEST = 5
"""Characters of the shortest remembered secret; a shorter one is a part of too many words."""

_USERINFO = re.compile(r"(//)[^/\s]*@")  # also without a scheme
_NAMES = r"(?:password|passwd|pwd|api_?key|secret_access_key|access_token|client_secret)"
_PATTERNS = (
    # Each run of letters is looked at once, and as much after it as a password may have: the time stays linear.
    (re.compile(r"""((?<![\w.%+-])[\w.%+-]+:)[^\s@/'"*]{3,2000}@"""), rf"\1{MASK}@"),
    (re.compile(rf"""(\b{_NAMES}['"]?\s*=\s*)('[^']*'|"[^"]*"|[^\s&;,]+)""", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(rf"""("{_NAMES}":\s*)"[^"]*\"""", re.IGNORECASE), rf'\1"{MASK}"'),
    (re.compile(r"(\b(?:bearer|basic)\s+)(?=\S*\d)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\bsk-[\w-]{8,}"), f"sk-{MASK}"),
)

_known: dict[str, re.Pattern[str]] = {}


def without_userinfo(text: str) -> str:
    """Replace user and password in URLs by three asterisks."""
    return _USERINFO.sub(rf"\1{MASK}@", text)


def redacted(text: str) -> str:
    """Replace the passwords and keys in a text by three asterisks."""
    for pattern in sorted(_known.values(), key=lambda pattern: -len(pattern.pattern)):
        text = pattern.sub(MASK, text)
    text = without_userinfo(text)
    for pattern, mask in _PATTERNS:
        text = pattern.sub(mask, text)
    return text


def remember(secret: str) -> None:
    """Redact a password or key from now on."""
    for text in {secret, unquote(secret)}:
        if len(text) >= _SHORTEST:
            # Within a word only if it is long enough to be no part of one.
            bound = "" if len(text) > 2 * _SHORTEST else r"\b"
            _known[text] = re.compile(f"{bound * text[0].isalnum()}{re.escape(text)}{bound * text[-1].isalnum()}")


def remember_url(url: str) -> None:
    """Redact the password in a URL from now on; it need not be well formed."""
    userinfo = url.rpartition("@")[0].rpartition("://")[2]
    name, _, password = userinfo.partition(":")
    if password:
        remember(password)
        remember(f"{name}:{password}")


@contextmanager
def redacted_errors() -> Iterator[None]:
    """Redact the messages of an error that leaves the block, and of its causes: schedulers log them all."""
    try:
        yield
    except Exception as error:
        seen: list[BaseException] = []
        pending: list[BaseException | None] = [error]
        while pending:
            item = pending.pop()
            if item is not None and item not in seen:
                seen.append(item)
                item.args = tuple(redacted(part) if isinstance(part, str) else part for part in item.args)
                pending += [item.__cause__, item.__context__]
        raise


def redacted_traceback(error: BaseException) -> str:
    """The traceback of an error, redacted."""
    return redacted("".join(traceback.format_exception(error)))


def redact_logs() -> None:
    """Redact all log records of this process from now on."""
    before = logging.getLogRecordFactory()
    if getattr(before, "redacts", False):
        return

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        try:
            text = record.getMessage()
        except Exception:  # logging itself reports a message that does not fit its arguments
            return record
        # Only a record with a secret is changed, because some formatters read the arguments.
        if (clean := redacted(text)) != text:
            record.msg, record.args = clean, ()
        if record.exc_info and (error := record.exc_info[1]):
            trace = "".join(traceback.format_exception(error))
            if (clean_trace := redacted(trace)) != trace:
                record.msg, record.args, record.exc_info = f"{clean}\n{clean_trace}".rstrip(), (), None
        return record

    make.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)
