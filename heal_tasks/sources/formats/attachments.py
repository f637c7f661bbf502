"""Files within files: the text of an attachment, by its suffix."""

from heal_tasks.sources.encodings import read_text
from heal_tasks.sources.extract import UnreadableError
from heal_tasks.sources.formats import markup
from heal_tasks.sources.formats.readers import KIND_OF, TEXT_SUFFIXES, reader


def read_attachment(suffix: str, data: bytes, max_chars: int) -> str:
    """The text of an attachment.

    Raises:
        UnreadableError: files with this suffix are not read, or this one cannot be.
    """
    if not data.strip():
        return ""
    if suffix in TEXT_SUFFIXES:
        try:
            text = read_text(data)[0].replace("\r\n", "\n").strip()
        except UnicodeDecodeError:
            raise UnreadableError("neither UTF-8 nor Windows-1252; convert it to UTF-8") from None
        return markup.fenced(text) if "\n#" in f"\n{text}" and suffix not in {".md", ".markdown"} else text
    kind = KIND_OF.get(suffix)
    if kind is None or kind in {"eml", "parquet"}:
        raise UnreadableError(f"attachments of kind {suffix!r} are not read")
    try:
        return reader(kind)(data, max_chars).body
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:  # parsers of broken files raise anything
        raise UnreadableError(f"it cannot be read ({type(error).__name__}: {error})") from error
