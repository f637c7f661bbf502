"""The pages of a web site that its sitemap names.

A page's version has its kind, the sitemap's date, and the server's validators (ETag, Last-Modified), or a hash where it
sends none. A page whose date in the sitemap is known and older than two days costs no request; any other is asked for
with the known validators, so an unchanged one costs a reply without a body. The rules of ``robots.txt`` hold. A page
that is gone loses its documents; one that fails keeps them.
"""

import mimetypes
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from heal_tasks.core.errors import RetryableError, SourceError
from heal_tasks.core.ids import natural_key, sha256_hex
from heal_tasks.core.source_tables import SourceTable
from heal_tasks.core.types import SourceFile
from heal_tasks.sources import robots, sitemap_xml
from heal_tasks.sources.web import LONGEST_WAIT_S, RedirectError, Reply, Site

MAX_PAGES, MAX_SITEMAPS = 200_000, 1000
MAX_PAGE_BYTES = 64 * 2**20
MAX_KEPT_BYTES = 256 * 2**20
"""Of the bodies that a listing received and a run is about to read; pages beyond it are fetched again."""
PAGES_PER_S = 5.0
SETTLED_AFTER = timedelta(days=2)
"""A page may change twice on the day that its sitemap names, in any time zone."""
MAX_FAILED_IN_A_ROW = 5
"""So many pages after each other that the server fails to give are a site that does not answer."""

_HTML = frozenset({"", ".php", ".asp", ".aspx", ".jsp", ".htm", ".cgi"})
# Also those that servers without the types of 2007 send for office files and e-books, which are archives.
_GENERIC = frozenset({
    "", "text/plain", "application/octet-stream", "binary/octet-stream", "application/zip",
    "application/x-zip-compressed", "application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint",
})  # fmt: skip


@dataclass(frozen=True)
class _Version:
    """The parts of a page's fingerprint."""

    kind: str
    lastmod: str  # of the sitemap
    modified: str  # header Last-Modified
    etag: str  # header ETag, or a hash of the body

    def text(self) -> str:
        return "|".join((self.kind, self.lastmod.replace("|", ""), self.modified.replace("|", ""), self.etag))

    @classmethod
    def of(cls, text: str) -> "_Version | None":
        parts = text.split("|", 3)
        return cls(*parts) if len(parts) == 4 else None

    @property
    def conditions(self) -> dict[str, str]:
        """The headers of a request for a newer version only."""
        found = {"If-None-Match": self.etag if not self.etag.startswith("sha256:") else ""}
        found["If-Modified-Since"] = self.modified
        return {name: value for name, value in found.items() if value}


class SitemapSource:
    """The pages of the sitemap at ``location``, on its host."""

    def __init__(self, table: SourceTable) -> None:
        self._location = table.location
        per_s, private = table.options.get("pages_per_s", PAGES_PER_S), table.options.get("private", False)
        if isinstance(per_s, bool) or not isinstance(per_s, int | float) or not 0.01 <= per_s <= 100:
            raise table.wrong("pages_per_s", f"is {per_s!r}; write a number from 0.01 to 100")
        self._trusts_dates = table.options.get("lastmod", True)
        for key, value in (("private", private), ("lastmod", self._trusts_dates)):
            if not isinstance(value, bool):
                raise table.wrong(key, f"is {value!r}; write true or false")
        try:
            self._site = Site(table.location, interval_s=1 / per_s, private=private)
        except ValueError as error:
            raise table.wrong("location", str(error)) from None
        self._unanswered = 0  # pages in a row that the server failed to give
        self._problems: dict[str, str] = {}  # why a page that is listed cannot be read, by path
        self._kept: dict[str, tuple[int, int]] = {}  # place and size of bodies in the file of bodies, by path

    def list_files(self) -> Iterator[SourceFile]:
        """See ``Source``; every page is fetched."""
        return self.list_since({})

    def list_since(self, known: Mapping[str, str]) -> Iterator[SourceFile]:
        """See ``ConditionalSource``; pages of other hosts, and those that robots.txt forbids, are left out."""
        rules = self._robots()
        self._site.interval_s = max(self._site.interval_s, min(rules.delay_s, LONGEST_WAIT_S))
        self._unanswered = 0
        for url, lastmod in sorted(self._pages().items()):
            path = natural_key(url)
            real = url if url != path else ""
            reason = "" if self._site.owns(url) else "another host"
            reason = reason or ("" if rules.allows(_path_of(url)) else "forbidden by robots.txt")
            if reason:
                yield SourceFile(path, "", 0, real, left_out=reason)
                continue
            version = _Version.of(known.get(path, ""))
            if version and self._is_settled(version, lastmod):
                yield SourceFile(path, known[path], 0, real, version.kind)
                continue
            yield self._asked(SourceFile(path, "", 0, real), lastmod, version)

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``."""
        if file.path in self._problems:
            raise SourceError(self._problems[file.path])
        if (kept := self._kept.get(file.path)) is not None:
            self._bodies.seek(kept[0])
            return self._bodies.read(min(kept[1], limit + 1))
        reply = self._site.get(file.real_path, limit)
        if reply.status != 200:
            raise SourceError(_refusal(file.real_path, reply))
        return reply.text_body[: limit + 1]

    def _asked(self, file: SourceFile, lastmod: str, version: _Version | None) -> SourceFile:
        """A page as the server has it now."""
        kind = version.kind if version else _kind_of_name(file.real_path)
        try:
            reply = self._get(file.real_path, version.conditions if version else {})
        except (SourceError, RetryableError) as error:
            if self._unanswered == MAX_FAILED_IN_A_ROW:
                raise RetryableError(f"{self._site.host} does not answer: {error}") from error
            self._problems[file.path] = str(error)
            return SourceFile(file.path, "", 0, file.real, kind)
        if reply.status == 304 and version:
            return SourceFile(file.path, version.text(), 0, file.real, kind)
        if reply.status != 200:
            return SourceFile(file.path, "", 0, file.real, left_out=f"HTTP {reply.status}")
        kind = _kind(file.real_path, reply)
        etag, modified = reply.headers.get("etag", "")[:200], reply.headers.get("last-modified", "")[:100]
        if not etag and not modified:
            etag = f"sha256:{sha256_hex(reply.body)}"
        self._keep(file.path, reply.text_body)
        made = _Version(kind, lastmod, modified, etag)
        return SourceFile(file.path, made.text(), len(reply.body), file.real, kind)

    def _get(self, url: str, conditions: Mapping[str, str]) -> Reply:
        """A reply that says something about a page; counts those in a row that did not."""
        self._unanswered += 1
        try:
            reply = self._site.get(url, MAX_PAGE_BYTES, conditions)
        except RedirectError:
            self._unanswered = 0
            raise
        if reply.status < 500 and reply.status != 429:
            self._unanswered = 0
        if reply.status not in (200, 304, 404, 410):
            raise SourceError(_refusal(url, reply))
        if len(reply.body) > MAX_PAGE_BYTES:
            raise SourceError(f"{url} has more than {MAX_PAGE_BYTES >> 20} MiB; exclude it")
        return reply

    def _keep(self, path: str, body: bytes) -> None:
        place = self._bodies.seek(0, 2)
        if place + len(body) <= MAX_KEPT_BYTES:
            self._bodies.write(body)
            self._kept[path] = place, len(body)

    def _is_settled(self, version: _Version, lastmod: str) -> bool:
        """True if the sitemap's date is the known one, and too old to have been followed by another change."""
        if not (self._trusts_dates and lastmod and lastmod == version.lastmod):
            return False
        try:
            day = date.fromisoformat(lastmod[:10])
        except ValueError:
            return False
        return datetime.now(UTC).date() - day > SETTLED_AFTER

    def _robots(self) -> robots.Robots:
        parts = urlsplit(self._location)
        where = f"{parts.scheme}://{parts.netloc}/robots.txt"
        try:
            reply = self._site.get(where, robots.MAX_BYTES)
        except RedirectError:
            return robots.Robots()
        if reply.status >= 500 or reply.status == 429:
            raise RetryableError(f"{where} answers HTTP {reply.status}, so nothing may be fetched; try again later")
        if reply.status != 200:
            return robots.Robots()
        return robots.parse_robots(reply.body[: robots.MAX_BYTES].decode("utf-8-sig", "replace"))

    def _pages(self) -> dict[str, str]:
        """The pages of all sitemaps with the texts of their last changes."""
        pages, waiting, seen = dict[str, str](), [self._location], set[str]()
        while waiting:
            where = waiting.pop()
            if where in seen:
                continue
            seen.add(where)
            if not self._site.owns(where):
                raise SourceError(f"the index names a sitemap of another host ({where[:200]}); only its own are read")
            reply = self._site.get(where, sitemap_xml.MAX_BYTES)
            if reply.status >= 500 or reply.status == 429:
                raise RetryableError(_refusal(where, reply))
            if reply.status != 200:
                raise SourceError(_refusal(where, reply))
            found, sitemaps = sitemap_xml.read_sitemap(where, reply.body)
            pages |= {url.partition("#")[0]: lastmod for url, lastmod in found.items()}
            waiting += reversed(sitemaps)
            if len(pages) > MAX_PAGES or len(seen) + len(waiting) > MAX_SITEMAPS:
                most = f"{MAX_PAGES} pages and {MAX_SITEMAPS} sitemaps"
                raise SourceError(f"{self._location} has more than {most}; name its parts as sources of their own")
        return pages

    @cached_property
    def _bodies(self) -> IO[bytes]:
        return tempfile.TemporaryFile(prefix="heal-pages-")


def _refusal(url: str, reply: Reply) -> str:
    cure = {401: "it asks for a login", 403: "the server forbids it", 404: "correct the address"}
    return f"{url[:200]} answers HTTP {reply.status}; {cure.get(reply.status, 'look at the site, or try again later')}"


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _kind_of_name(url: str) -> str:
    kind = PurePosixPath(urlsplit(url).path).suffix.lower()
    return ".html" if kind in _HTML else kind


def _kind(url: str, reply: Reply) -> str:
    """The suffix that chooses the parser: of the type that the server names, or where that says little, of the name."""
    named = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if named in _GENERIC:
        suffix = _kind_of_name(url)
        return ".txt" if named == "text/plain" and suffix == ".html" else suffix
    return ".html" if named == "application/xhtml+xml" else mimetypes.guess_extension(named) or _kind_of_name(url)
