"""E-mails to Markdown: who wrote to whom and when, the text, and every attachment of a kind that is read."""

import codecs
import email
import email.policy
from email.message import EmailMessage, Message
from pathlib import PurePosixPath
from typing import Any

from heal_tasks.sources.encodings import read_html, read_labelled
from heal_tasks.sources.extract import Extract, UnreadableError
from heal_tasks.sources.formats import markup
from heal_tasks.sources.formats.attachments import read_attachment
from heal_tasks.sources.html_text import extract_html
from heal_tasks.sources.records import is_visible

_HEADERS = ("From", "To", "Cc", "Date")
_OTHER_FORMS = frozenset({"text/x-amp-html", "text/watch-html", "text/enriched", "text/richtext", "text/rtf"})
_MAX_DEPTH = 5
_MAX_PARTS = 200
_MAX_HEADER_CHARS = 1000


def extract_eml(data: bytes, max_chars: int) -> Extract:
    """Extract the text of an e-mail; its title is its subject.

    An attachment that cannot be read is named in the metadata, with the reason.

    Raises:
        UnreadableError: it has neither headers nor text.
    """
    # Editors put a byte order mark, and programs that copy mails empty lines, before the first header.
    data = data.removeprefix(codecs.BOM_UTF8).lstrip()
    message = email.message_from_bytes(data, policy=email.policy.default)
    if not any(message.get(name) for name in ("From", "To", "Subject", "Date", "Message-ID")):
        raise UnreadableError(
            "the file is no e-mail (it has no sender, recipient, subject or date); save it again as .eml"
        )
    unread: list[str] = []
    parts = _parts(message, max_chars, unread, 0)
    metadata: dict[str, Any] = {
        name.lower(): text for name in _HEADERS if name != "Date" and (text := _header(message, name))
    }
    if (date := _date(message)) != "":
        metadata["date"] = date
    texts = (part for part in _leaves(message) if part.get_content_maintype() == "text")
    if guessed := next(filter(None, (_decoded(part)[1] for part in texts)), None):
        metadata["encoding_guessed"] = guessed
    if unread:
        metadata["attachments_unread"] = unread[:_MAX_PARTS]
    return Extract(_header(message, "Subject"), markup.blocks(parts), metadata)


def _parts(message: Message, max_chars: int, unread: list[str], depth: int) -> list[str]:
    """Blocks of a message: its headers, its text, its attachments."""
    lines = [f"{name}: {text}" for name in _HEADERS if (text := _header(message, name))]
    texts: list[str] = []
    attached: list[str] = []
    leaves = [part for part in _leaves(message) if not part.is_multipart() or _is_message(part)][:_MAX_PARTS]
    alternatives = _unneeded(message)
    for part in leaves:
        if id(part) in alternatives:
            continue
        name = _name(part)
        if _is_message(part):
            inner = _inner(part)
            if inner is not None and depth < _MAX_DEPTH:
                below = markup.blocks(_parts(inner, max_chars, unread, depth + 1))
                title = _header(inner, "Subject") or "Message"
                attached += [markup.heading(2, f"Attachment: {title}"), markup.nested(below, 1)]
        elif name or part.get_content_maintype() != "text":
            found = _attachment(part, name, max_chars, unread)
            attached += [markup.heading(2, f"Attachment: {name}"), markup.nested(found, 2)] if found else []
        else:
            texts.append(_text(part, max_chars))
        if sum(map(len, texts)) + sum(map(len, attached)) > max_chars:
            break
    return ["\n".join(lines), *texts, *attached]


def _leaves(message: Message) -> list[Message]:
    """The parts of a message, in order; those of an attached message are its own."""
    found: list[Message] = []
    waiting = [message]
    while waiting and len(found) < 10 * _MAX_PARTS:
        part = waiting.pop()
        found.append(part)
        payload = part.get_payload()
        if isinstance(payload, list) and not _is_message(part):
            waiting += [item for item in reversed(payload) if isinstance(item, Message)]
    return found


def _inner(part: Message) -> Message | None:
    """The mail that is attached; encoded as base64, against the standard, Python's parser takes it for a bare text."""
    payload = part.get_payload()
    if not (isinstance(payload, list) and payload and isinstance(payload[0], Message)):
        return None
    inner: Message = payload[0]
    if not inner.keys() and _header(part, "Content-Transfer-Encoding").lower() == "base64":
        inner["Content-Transfer-Encoding"] = "base64"
        return email.message_from_bytes(_bytes(inner), policy=email.policy.default)
    return inner


def _unneeded(message: Message) -> set[int]:
    """Identities of parts that say in another form what a chosen one says: plain text beside HTML that has text."""
    found: set[int] = set()
    for part in _leaves(message):
        payload = part.get_payload()
        if part.get_content_type() != "multipart/alternative" or not isinstance(payload, list):
            continue
        forms = [item for item in payload if isinstance(item, Message)]
        # The HTML of a mail with pictures is one of the parts of a form.
        leaves = (leaf for item in forms for leaf in _leaves(item) if not _name(leaf))
        pages = [leaf for leaf in leaves if leaf.get_content_type() == "text/html"]
        plain = [item for item in forms if item.get_content_type() == "text/plain" and is_visible(_decoded(item)[0])]
        # HTML keeps tables and headings; the plain form of it is often a line that says to look at the HTML.
        if any(is_visible(_text(page, 10**9)) for page in pages):
            found.update(map(id, plain))
        elif plain:
            found.update(map(id, pages))
        if pages or plain:
            found.update(id(item) for item in forms if item.get_content_type() in _OTHER_FORMS)
    return found


def _text(part: Message, max_chars: int) -> str:
    text, _ = _decoded(part)
    if part.get_content_type() == "text/html":
        return extract_html(text.encode("utf-8", "replace"), max_chars).body.strip()
    return text.replace("\r\n", "\n").strip()


def _decoded(part: Message) -> tuple[str, str | None]:
    """The text of a part, and its encoding if it was guessed; what cannot be decoded becomes U+FFFD."""
    data, label = _bytes(part), part.get_content_charset("")
    try:
        if data.isascii():  # UTF-7 and ISO-2022-JP are written so
            return data.decode(label or "ascii", "replace"), None
        if not label and part.get_content_type() == "text/html":
            return read_html(data)
        return read_labelled(data, "" if label == "us-ascii" else label)
    except (LookupError, ValueError):
        return data.decode("utf-8", "replace"), None


def _bytes(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _attachment(part: Message, name: str, max_chars: int, unread: list[str]) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if not suffix and part.get_content_type() in {"text/plain", "text/html"}:
        return _text(part, max_chars)
    if part.get_content_maintype() in {"image", "audio", "video"}:
        return ""
    try:
        return read_attachment(suffix, _bytes(part), max_chars)
    except UnreadableError as error:
        unread.append(f"{name or part.get_content_type()}: {error}"[:_MAX_HEADER_CHARS])
        return ""


def _is_message(part: Message) -> bool:
    return part.get_content_type() == "message/rfc822"


def _name(part: Message) -> str:
    try:
        return PurePosixPath((part.get_filename() or "").replace("\\", "/")).name[:200]
    except (ValueError, LookupError):
        return ""


def _header(message: Message, name: str) -> str:
    """A header as text; one that is broken is left out."""
    try:
        return " ".join(str(message.get(name) or "").split())[:_MAX_HEADER_CHARS]
    except (ValueError, LookupError, IndexError, AttributeError):
        return ""


def _date(message: Message) -> str:
    """The date in ISO form, or as it is written."""
    if isinstance(message, EmailMessage):
        try:
            moment = getattr(message["Date"], "datetime", None)
        except (ValueError, LookupError, IndexError, AttributeError):
            return ""
        if moment is not None:
            return str(moment.isoformat())
    return _header(message, "Date")
