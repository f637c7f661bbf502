"""Requests to one web site: bounded in time and size, at a rate, to no other host and to no address it may not name.

The name of the site is resolved once, and every connection of a run goes to the addresses that were found. One in a
private network is refused unless the location itself is that address or ``localhost``, or the table allows it.
"""

import ipaddress
import re
import socket
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpcore2

from heal_tasks import __version__
from heal_tasks.core.errors import RetryableError, SourceError
from heal_tasks.endpoint.network import TimedStream
from heal_tasks.sources.encodings import read_labelled

REQUEST_S = 60.0
"""For one request with its reply."""
CONNECT_S = 10.0
MAX_REDIRECTS = 5
ATTEMPTS = 3
LONGEST_WAIT_S = 30.0
"""A longer Retry-After or Crawl-delay is not waited for within a run."""
PORTS = {"http": 80, "https": 443}
_TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "2002::/16")))  # to IPv4 addresses
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


_TEXTS = ("text/", "application/xhtml+xml")
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([\w.:-]+)")


class RedirectError(SourceError):
    """A redirect that is not followed."""


@dataclass(frozen=True)
class Reply:
    """The reply of a site; of a body beyond the limit one byte more than it."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    url: str  # after redirects

    @property
    def text_body(self) -> bytes:
        """The body, in UTF-8 where it is a text in another encoding that the server names beside it."""
        kind = self.headers.get("content-type", "").lower()
        named = _CHARSET.search(kind) if kind.startswith(_TEXTS) else None
        if named is None:
            return self.body
        try:
            text, guessed = read_labelled(self.body, named[1])
        except (LookupError, UnicodeDecodeError):
            return self.body
        return self.body if guessed else text.encode("utf-8", "surrogatepass")


class Site:
    """The host of a URL."""

    def __init__(self, url: str, *, interval_s: float, private: bool) -> None:
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc:
            raise SourceError(f"{url.rpartition('@')[2]!r} is no address of a site; write https://HOST/PATH")
        if not parts.hostname.isascii():
            raise SourceError(f"{parts.hostname!r} has letters beyond ASCII; write its form that begins with xn--")
        self.host, self._private = parts.hostname, private
        self.interval_s = interval_s
        self._origins = {_origin(url)}
        if _origin(url) == ("http", self.host, 80):
            self._origins.add(("https", self.host, 443))
        self._next = self._deadline = 0.0
        self._addresses: list[str] = []
        self._pool: httpcore2.ConnectionPool | None = None

    def owns(self, url: str) -> bool:
        """True if a URL is one of this host and port; a site given with http may answer with https."""
        try:
            return _origin(url) in self._origins and "@" not in urlsplit(url).netloc
        except ValueError:
            return False

    def get(self, url: str, limit: int, headers: Mapping[str, str] | None = None) -> Reply:
        """Get a URL, following redirects within the site; a busy server is asked again.

        Raises:
            RetryableError: no connection, or none that lasted.
            RedirectError: a redirect leads away or in a circle.
            SourceError: the host has an address that it may not have.
        """
        first = url
        for _ in range(MAX_REDIRECTS + 1):
            reply = self._get_patiently(url, limit, headers or {})
            if reply.status not in _REDIRECTS:
                return reply
            target = reply.headers.get("location", "")
            try:
                url = urljoin(url, _encoded(target, "latin-1"))  # its bytes, whatever they are
            except ValueError:
                raise RedirectError(f"{first} redirects to no address ({_shown(target)}); correct the site") from None
            if not self.owns(url):
                raise RedirectError(f"{first} redirects to another host ({_shown(url)}); only {self.host} is read")
        raise RedirectError(f"{first} redirects more than {MAX_REDIRECTS} times; correct the site")

    def _get_patiently(self, url: str, limit: int, headers: Mapping[str, str]) -> Reply:
        for attempt in range(ATTEMPTS):
            wait_s = 2.0**attempt
            try:
                reply = self._get_once(url, limit, headers)
            except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, OSError) as error:
                if attempt == ATTEMPTS - 1:
                    detail = str(error) or type(error).__name__
                    raise RetryableError(f"{_shown(url)}: connection failed ({detail}); try again later") from error
            else:
                if (reply.status != 429 and reply.status < 500) or attempt == ATTEMPTS - 1:
                    return reply
                asked = reply.headers.get("retry-after", "")
                wait_s = min(float(asked), LONGEST_WAIT_S) if asked.isdecimal() else wait_s
            sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _get_once(self, url: str, limit: int, headers: Mapping[str, str]) -> Reply:
        sleep(max(0.0, self._next - monotonic()))
        self._next = monotonic() + self.interval_s
        self._deadline = monotonic() + REQUEST_S
        sent = {"User-Agent": f"heal-etl/{__version__}", "Accept-Encoding": "gzip", **headers}
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()]
        with self._connections().stream("GET", _encoded(url), headers=encoded) as response:
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            decoder = zlib.decompressobj(zlib.MAX_WBITS | 32) if "gzip" in found.get("content-encoding", "") else None
            parts, size = list[bytes](), 0
            for piece in response.iter_stream():
                part = _decoded(decoder, piece, limit + 1 - size) if decoder else piece
                parts.append(part)
                size += len(part)
                if size > limit:
                    break
            if decoder and parts and size <= limit and not decoder.eof:
                raise httpcore2.RemoteProtocolError("the reply ends within its gzip data")
            return Reply(response.status, found, b"".join(parts)[: limit + 1], url)

    def _connections(self) -> httpcore2.ConnectionPool:
        if self._pool is None:
            self._addresses = self._resolve()
            self._pool = httpcore2.ConnectionPool(
                ssl_context=ssl.create_default_context(), max_connections=1, network_backend=_Backend(self)
            )
        return self._pool

    def _resolve(self) -> list[str]:
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise RetryableError(
                f"{self.host} cannot be resolved ({error}); check the location, or try later"
            ) from error
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        inside = [address for address in addresses if not _is_public(address)]
        if inside and not self._private and not _names_itself(self.host):
            what = f"{self.host} has the private address {inside[0]}"
            raise SourceError(f"{what}; if that is meant, write private = true into its table")
        return addresses

    def connect(self, host: str, port: int, **options: Any) -> httpcore2.NetworkStream:
        """Open a connection to one of the addresses."""
        if host.strip("[]") != self.host:
            raise httpcore2.ConnectError(f"{host} is not {self.host}")
        backend, failed = httpcore2.SyncBackend(), OSError("it has no address")
        for address in self._addresses:
            try:
                return TimedStream(backend.connect_tcp(address, port, **options), lambda: self._deadline)
            except httpcore2.ConnectError as error:
                failed = OSError(str(error))
        raise httpcore2.ConnectError(str(failed))


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, site: Site) -> None:
        self._site = site

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return self._site.connect(*args, **options | {"timeout": CONNECT_S})


def _decoded(decoder: Any, piece: bytes, limit: int) -> bytes:
    try:
        return bytes(decoder.decompress(piece, limit))
    except zlib.error as error:
        raise httpcore2.RemoteProtocolError(f"the reply cannot be decompressed: {error}") from error


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme, 0)


def _encoded(url: str, encoding: str = "utf-8") -> str:
    """The URL in ASCII, without a fragment."""
    return quote(url.partition("#")[0], safe="%/:?=&;,+!$'()*@[]~", encoding=encoding)


def _shown(url: str) -> str:
    return url[:200]


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    if mapped is not None:
        return bool(mapped.is_global)
    return found.is_global and not found.is_multicast and not any(found in network for network in _TRANSLATED)


def _names_itself(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True
