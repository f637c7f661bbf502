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
_BOMS = {  # that of UTF-16 is the beginning of that of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

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
    """Decode UTF-8 with or without byte order mark, UTF-16, or UTF-32 with a mark; the mark is removed.

    Halves of surrogate pairs in UTF-16 stay, for the record that has them to be rejected.

    Raises:
        UnicodeDecodeError: it is none of them.
    """
    wide = _wide_codec(data)
    return data.decode("utf-8-sig") if wide is None else data.decode(wide, "surrogatepass")


def decode_wide(data: bytes) -> str | None:
    """Decode a table in UTF-16 or UTF-32 up to the last whole character; None for one in other encodings."""
    return None if _wide_codec(data) is None else decode(data[: len(data) // 2 * 2])


def read_text(data: bytes) -> tuple[str, str | None]:
    """Decode a text file, and name the encoding if it was guessed.

    Raises:
        UnicodeDecodeError: it is neither UTF-8, save few bytes, nor UTF-16, and does not look like Windows-1252.
    """
    try:
        return decode(data), None
    except UnicodeDecodeError:
        if (text := read_damaged(data)) is not None:
            return text, None
        if not looks_western(data):
            raise
        return data.decode(GUESSED), GUESSED


def read_damaged(data: bytes) -> str | None:
    """Decode UTF-8 in which few bytes are wrong, such as one that was cut; they become U+FFFD. None for other bytes."""
    text, right, wrong = _as_utf8(data)
    return text if right > wrong and _is_mostly_read(text) else None


def read_html(data: bytes) -> tuple[str, str | None]:
    """Decode an HTML page as browsers do, and name the encoding if it was guessed.

    A byte order mark counts first. UTF-8 that is valid counts before another declaration: wrong declarations are
    common, UTF-8 by accident is not. Then the declared encoding counts, by the WHATWG's table of labels; single bytes
    that are wrong in it become U+FFFD.

    Raises:
        UnicodeDecodeError: it is not UTF-8, declares nothing that can be used, and does not look like Windows-1252.
    """
    return _read(data, _declared_codec(data))


def read_labelled(data: bytes, label: str) -> tuple[str, str | None]:
    """Decode a text as ``read_html`` does, with an encoding named beside it, by a mail or a server; empty if by none.

    Raises:
        UnicodeDecodeError: it is not UTF-8, not in the named encoding, and does not look like Windows-1252.
    """
    return _read(data, _codec_of(label))


def _read(data: bytes, declared: str | None) -> tuple[str, str | None]:
    if declared == "iso2022_jp" and b"\x1b" in data:  # written in ASCII bytes alone
        return data.decode(declared, "replace"), None
    try:
        return decode(data), None
    except UnicodeDecodeError:
        if (text := read_damaged(data)) is not None:
            return text, None
        if declared is not None and _wide_codec(data) is None:
            text = data.decode(declared, "replace")
            if _is_mostly_read(text):
                return text, None
        return read_text(data)


def looks_western(data: bytes) -> bool:
    """True if bytes may be a text in Windows-1252: mostly ASCII, with single accented letters, without controls."""
    if _wide_codec(data) is not None or len(data.translate(None, _CONTROLS + _UNDEFINED)) < len(data):
        return False
    _, right, wrong = _as_utf8(data)
    if right > wrong:  # UTF-8 with damage, each letter of which would be two wrong ones
        return False
    runs = [len(run) for run in _HIGH.findall(data)]
    high = sum(runs)
    return high <= max(8, _MAX_HIGH_SHARE * len(data)) and (
        sum(run for run in runs if run > 2) <= _MAX_LONG_RUN_SHARE * high
    )


def _as_utf8(data: bytes) -> tuple[str, int, int]:
    """A text as UTF-8, and how many of its characters beyond ASCII are right and wrong in it; none are in UTF-16."""
    if _wide_codec(data) is not None:
        return "", 0, 0
    text = data.decode("utf-8-sig", "replace")
    wrong = text.count("\ufffd")
    return text, len(text) - len(text.encode("ascii", "ignore")) - wrong, wrong


def _is_mostly_read(text: str) -> bool:
    """True if few characters could not be decoded."""
    return text.count("\ufffd") <= max(1, _MAX_REPLACED_SHARE * len(text))


def _wide_codec(data: bytes) -> str | None:
    """The codec of text with more than one byte per character: by its mark, or as every other byte of it is zero."""
    if (codec := next((codec for mark, codec in _BOMS.items() if data.startswith(mark)), None)) is not None:
        return codec
    head = data[:64]
    even, odd = head[::2], head[1::2]
    if len(head) < 4 or len(head) % 2:
        return None
    if not any(odd) and all(even):
        return "utf-16-le"
    return "utf-16-be" if not any(even) and all(odd) else None


def _declared_codec(data: bytes) -> str | None:
    """Python's codec of the declaration in ``meta`` or in the XML declaration; None without one that can be read."""
    head = _COMMENT.sub(b"", data[:_DECLARED_WITHIN])
    found = _META.search(head) or _XML.match(head.removeprefix(codecs.BOM_UTF8))
    return _codec_of(found[1].decode("ascii", "replace")) if found else None


def _codec_of(label: str) -> str | None:
    """Python's codec of a label of the WHATWG, or of Python alone such as cp850; None for UTF and unknown ones."""
    import webencodings

    encoding = webencodings.lookup(label)
    if encoding is None:
        try:
            "".encode(label)
        except (LookupError, ValueError):  # unknown, or a codec of Python that is none of texts
            return None
        return label
    if encoding.name.startswith("utf-") or encoding.name in {"replacement", "x-user-defined"}:
        return None  # UTF-8 has been tried, and what could be read as ASCII is not UTF-16
    return "gb18030" if encoding.name == "gbk" else str(encoding.codec_info.name)
