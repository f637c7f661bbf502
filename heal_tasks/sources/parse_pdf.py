"""PDF files to documents: the text of all pages, one document per file with the path as its id.

If one page cannot be read, the whole file is rejected: a document with a missing page would look complete.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from heal_tasks.core.types import Record, Rejected
from heal_tasks.sources.records import RAW_CHARS, build_record, reject


def parse_pdf(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Extract the text of a PDF, pages separated by a blank line; its title comes from its metadata.

    Yields:
        One Record with the number of pages as metadata, or a Rejected: encrypted, broken, without text, or with more
        than ``max_chars`` characters, where reading stops.
    """
    place = "the file"
    try:
        with _silenced("pypdf"):
            from pypdf import PdfReader

            reader = PdfReader(io.BytesIO(data))
            if reader.is_encrypted and not reader.decrypt(""):
                yield reject(path, 0, "the PDF is encrypted; store it without a password")
                return
            pages: list[str] = []
            length = 0
            for number, page in enumerate(reader.pages, start=1):
                place = f"page {number}"
                pages.append(page.extract_text().strip())
                length += len(pages[-1])
                if length > max_chars:
                    break
            place = "the metadata"
            title = reader.metadata.title if reader.metadata is not None else None
    except Exception as error:  # pypdf documents that broken files raise anything, not only its own errors
        reason = f"PDF: {place} cannot be read ({type(error).__name__}: {error}); print it to a new PDF"
        yield reject(path, 0, reason)
        return
    body = "\n\n".join(page for page in pages if page)
    if not body:
        yield reject(path, 0, f"the PDF has no text on its {len(pages)} pages; run text recognition over it")
        return
    yield build_record(
        path,
        0,
        external_id=path,
        title=title if isinstance(title, str) and title.strip() else PurePosixPath(path).stem,
        body=body,
        metadata={"pages": len(pages)},
        max_chars=max_chars,
        raw=body[:RAW_CHARS],
    )


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep a library's warnings about broken files out of the log; the reason is in quarantine."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
