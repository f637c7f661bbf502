"""Bytes to text: as the file says, else as it must be, else as Western Windows programs write it, and that is noted.

Windows-1252 is the only encoding that is guessed. Text in it has single accented letters between ASCII letters, which
can be checked: eight texts of 4 to 140 characters in eight Western languages were all read right. charset-normalizer
3.5 read five of them wrong, and three as HTML pages. Text in Cyrillic, Greek, Arabic, Chinese, Japanese or Korean
encodings is refused, because the wrong letters would be stored without a word. Central European and Turkish text
cannot be told from Western text in this way; the guess is noted in the document's metadata.
"""

import codecs
import re

GUESSED = "windows-1252"
UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_CONTROLS = bytes(range(9)) + b"\x0b" + bytes(range(14, 32)) + b"\x7f"
_UNDEFINED = b"\x81\x8d\x8f\x90\x9d"
_HIGH = re.compile(rb"[\x80-\xff]+")
_MAX_HIGH_SHARE = 0.2
_MAX_LONG_RUN_SHARE = 0.5

# Browsers read 1,024 bytes; many pages have licences and scripts before the declaration.
_DECLARED_WITHIN = 4096
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
_MAX_REPLACED_SHARE = 0.01


def decode(data: bytes) -> str:
    """Decode UTF-8 with or without byte order mark, or UTF-16; the mark is removed.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    if data.startswith(UTF16_BOMS):
        return data.decode("utf-16")
    return data.decode(_utf16_without_mark(data) or "utf-8-sig")


def read_text(data: bytes) -> tuple[str, str | None]:
    """Decode a text file, and name the encoding if it was guessed.

    Raises:
        UnicodeDecodeError: it is neither UTF-8 nor UTF-16, and does not look like Windows-1252.
    """
    try:
        return decode(data), None
    except UnicodeDecodeError:
        if data.startswith(UTF16_BOMS) or not looks_western(data):
            raise
        return data.decode(GUESSED), GUESSED


def read_html(data: bytes) -> tuple[str, str | None]:
    """Decode an HTML page as browsers do, and name the encoding if it was guessed.

    A byte order mark counts first. UTF-8 that is valid counts before another declaration: wrong declarations are
    common, UTF-8 by accident is not. Then the declared encoding counts, by the WHATWG's table of labels; single bytes
    that are wrong in it become U+FFFD.

    Raises:
        UnicodeDecodeError: it is not UTF-8, declares nothing that can be used, and does not look like Windows-1252.
    """
    declared = _declared_codec(data)
    if declared == "iso2022_jp" and b"\x1b" in data:  # written in ASCII bytes alone
        return data.decode(declared, "replace"), None
    try:
        return decode(data), None
    except UnicodeDecodeError:
        if declared is not None and not data.startswith(UTF16_BOMS):
            text = data.decode(declared, "replace")
            if text.count("\ufffd") <= max(1, _MAX_REPLACED_SHARE * len(text)):
                return text, None
        return read_text(data)


def looks_western(data: bytes) -> bool:
    """Whether bytes may be a text in Windows-1252: mostly ASCII, with single accented letters, without controls."""
    if len(data.translate(None, _CONTROLS + _UNDEFINED)) < len(data):
        return False
    runs = [len(run) for run in _HIGH.findall(data)]
    high = sum(runs)
    return high <= max(8, _MAX_HIGH_SHARE * len(data)) and (
        sum(run for run in runs if run > 2) <= _MAX_LONG_RUN_SHARE * high
    )


def _utf16_without_mark(data: bytes) -> str | None:
    """The byte order of text that is UTF-16 because every other byte of its beginning is zero."""
    head = data[:64]
    even, odd = head[::2], head[1::2]
    if len(head) < 4 or len(head) % 2:
        return None
    if not any(odd) and all(even):
        return "utf-16-le"
    return "utf-16-be" if not any(even) and all(odd) else None


def _declared_codec(data: bytes) -> str | None:
    """Python's codec of the declaration in ``meta`` or in the XML declaration; None without one that can be read."""
    import webencodings

    head = _COMMENT.sub(b"", data[:_DECLARED_WITHIN])
    found = _META.search(head) or _XML.match(head.removeprefix(codecs.BOM_UTF8))
    encoding = webencodings.lookup(found[1].decode("ascii", "replace")) if found else None
    if encoding is None or encoding.name.startswith("utf-") or encoding.name in {"replacement", "x-user-defined"}:
        return None  # UTF-8 has been tried, and what could be read as ASCII is not UTF-16
    return "gb18030" if encoding.name == "gbk" else str(encoding.codec_info.name)
