"""The addresses in a sitemap: XML, an index of sitemaps, or text with an address per line; gzip included."""

import io
import zlib
from typing import Any
from xml.etree.ElementTree import ParseError, iterparse

from heal_tasks.core.errors import SourceError

MAX_BYTES = 50 * 2**20
"""The largest sitemap that the protocol allows, uncompressed."""


def read_sitemap(where: str, data: bytes) -> tuple[dict[str, str], list[str]]:
    """The pages of a sitemap with the texts of their last changes, and the sitemaps of an index.

    ``where`` names it in errors.

    Raises:
        SourceError: it is none, or is too large.
    """
    if data[:2] == b"\x1f\x8b":
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            data = decoder.decompress(data, MAX_BYTES + 1)
        except zlib.error as error:
            raise SourceError(f"{where} cannot be decompressed ({error}); write it again") from error
        if not decoder.eof and len(data) <= MAX_BYTES:
            raise SourceError(f"{where} ends within its gzip data; write it again")
    if len(data) > MAX_BYTES:
        raise SourceError(f"{where} has more than {MAX_BYTES >> 20} MiB; split it, with an index")
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        lines = [line.strip() for line in data.decode("utf-8-sig", "replace").splitlines()]
        if wrong := next((line for line in lines if line and not line.startswith(("http://", "https://"))), None):
            raise SourceError(f"{where} is no sitemap: a line is {wrong[:80]!r}; write XML, or an address per line")
        return {line: "" for line in lines if line}, []
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:  # entities can make a gigabyte of a kilobyte
        raise SourceError(f"{where} has a document type, so it is an HTML page or is not read; write a plain sitemap")
    try:
        return _read_xml(where, data)
    except ParseError as error:
        raise SourceError(f"{where} is no XML ({error}); write it again") from error


def _read_xml(where: str, data: bytes) -> tuple[dict[str, str], list[str]]:
    pages, sitemaps = dict[str, str](), list[str]()
    root: Any = None
    for event, element in iterparse(io.BytesIO(data), ("start", "end")):  # noqa: S314 - entities are refused above
        name = element.tag.rpartition("}")[2]
        if root is None:
            root = element
            if name not in ("urlset", "sitemapindex"):
                raise SourceError(f"{where} is no sitemap: its root is {name[:40]}; give the address of a sitemap")
        elif event == "end" and name in ("url", "sitemap"):
            texts = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in element}
            if address := texts.get("loc"):
                if name == "url":
                    pages[address] = texts.get("lastmod", "")
                else:
                    sitemaps.append(address)
            root.clear()
    return pages, sitemaps
