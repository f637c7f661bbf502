"""A web site on loopback with a sitemap, validators and faults."""

import gzip
import socket
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.loopback import LoopbackServer


@dataclass
class Page:
    """What a path answers."""

    body: bytes = b""
    kind: str = "text/html; charset=utf-8"
    etag: str = ""
    modified: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    lastmod: str = ""
    listed: bool = True


def html(text: str, title: str = "A page") -> bytes:
    return f"<html><head><title>{title}</title></head><body><p>{text}</p></body></html>".encode()


class WebSite(LoopbackServer):
    """Pages by path; ``asked`` has each request with whether it was conditional, ``/sitemap.xml`` lists the pages."""

    def __init__(self, pages: dict[str, Page]) -> None:
        self.pages, self.asked = pages, list[tuple[str, bool]]()
        self.hang_up: set[str] = set()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        super().__init__(Handler)
        self.url = self.base_url.removesuffix("/v1")

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        conditional = {name: request.headers.get(name) for name in ("If-None-Match", "If-Modified-Since")}
        self.asked.append((path, any(conditional.values())))
        page = self.pages.get(path) or (Page(self.sitemap(), "application/xml") if path == "/sitemap.xml" else None)
        page = page or Page(b"missing", status=404)
        if path in self.hang_up:
            request.send_response(200)
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(b"half")
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        status = page.status
        if status == 200 and (
            (page.etag and conditional["If-None-Match"] == page.etag)
            or (not page.etag and page.modified and conditional["If-Modified-Since"] == page.modified)
        ):
            status = 304
        body = b"" if status == 304 else page.body
        request.send_response(status)
        named = {"Content-Type": page.kind, "ETag": page.etag, "Last-Modified": page.modified, **page.headers}
        for name, value in named.items():
            if value:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def sitemap(self) -> bytes:
        listed = [(path, page) for path, page in self.pages.items() if page.listed]
        entries = "".join(
            f"<url><loc>{self.url}{path.replace('&', '&amp;')}</loc>"
            + (f"<lastmod>{page.lastmod}</lastmod>" if page.lastmod else "")
            + "</url>"
            for path, page in listed
        )
        return f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</urlset>'.encode()

    def take(self) -> list[tuple[str, bool]]:
        """The requests of pages since the last call."""
        asked, self.asked = self.asked, []
        return [item for item in asked if item[0] not in ("/robots.txt", "/sitemap.xml")]


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def no_waiting(seconds: float) -> None:
    """In place of ``time.sleep``."""
    assert 0 <= seconds < 60
