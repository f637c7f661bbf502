"""Requests to one host, and what sitemaps and robots.txt say."""

import contextlib
import socket
import threading
from typing import Any

import pytest

from heal_tasks.core.errors import HealError, RetryableError, SourceError
from heal_tasks.sources import web
from heal_tasks.sources.robots import parse_robots
from heal_tasks.sources.sitemap_xml import read_sitemap
from tests.sources.website import Page, WebSite, no_waiting, zipped


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "sleep", no_waiting)


def test_a_reply_that_drips_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError), listener.accept()[0] as conn:
                conn.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not ended.wait(0.02):
                    conn.sendall(b"x")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    monkeypatch.setattr(web, "REQUEST_S", 0.3)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    with pytest.raises(RetryableError, match=r"connection failed \((the reply was not complete in time|timed out)\)"):
        web.Site(url, interval_s=0, private=False).get(url, 100)
    ended.set()
    listener.close()


def test_a_reply_that_ends_within_its_gzip_data_is_none() -> None:
    with WebSite({"/cut": Page(zipped(b"many words " * 1000)[:-9], headers={"Content-Encoding": "gzip"})}) as server:
        site = web.Site(server.url, interval_s=0, private=False)
        with pytest.raises(RetryableError, match=r"/cut: connection failed \(the reply ends within its gzip data\)"):
            site.get(f"{server.url}/cut", 100_000)
        assert len(server.asked) == web.ATTEMPTS
        server.pages["/cut"] = Page(b"", status=404, headers={"Content-Encoding": "gzip"})
        assert site.get(f"{server.url}/cut", 100_000).status == 404


@pytest.mark.parametrize(
    ("address", "private", "refused"),
    [
        ("10.1.2.3", False, True), ("127.0.0.1", False, True), ("169.254.169.254", False, True),
        ("fd00::1", False, True), ("::ffff:10.0.0.1", False, True), ("64:ff9b::a00:1", False, True),
        ("100.64.0.1", False, True), ("0.0.0.0", False, True), ("10.1.2.3", True, False),
        ("93.184.216.34", False, False),
    ],
)  # fmt: skip
def test_a_name_with_a_private_address_is_refused_unless_the_table_allows_it(
    address: str, private: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[str]()

    def connect(self: object, host: str, port: int, **options: Any) -> Any:
        tried.append(host)
        raise web.httpcore2.ConnectError("no")

    monkeypatch.setattr(web.socket, "getaddrinfo", lambda *args, **options: [(2, 1, 6, "", (address, 0))])
    monkeypatch.setattr(web.httpcore2.SyncBackend, "connect_tcp", connect)
    site = web.Site("http://docs.example.com/", interval_s=0, private=private)
    with pytest.raises(SourceError if refused else RetryableError, match="private = true" if refused else "failed"):
        site.get("http://docs.example.com/x", 10)
    assert set(tried) == (set() if refused else {address})
    with pytest.raises(HealError):
        site.get("http://other.example.com/x", 10)
    assert set(tried) <= {address}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html><body>Not found</body></html>", "is no sitemap: its root is html"),
        (b"<!DOCTYPE html><html></html>", "has a document type"),
        (b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><urlset/>', "has a document type"),
        (b"<urlset><url>", "is no XML"),
        (zipped(b"<urlset/>")[:-12], "ends within its gzip data"),
        (b"\x1f\x8bnothing", "cannot be decompressed"),
        (b"Not a sitemap", "is no sitemap: a line is 'Not a sitemap'"),
    ],
)
def test_what_is_no_sitemap_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_sitemap("s", data)


def test_a_sitemap_of_text_and_one_that_unpacks_to_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_sitemap("s", b"\xef\xbb\xbfhttp://a/b\r\n\r\nhttp://a/c\r\n") == (
        {"http://a/b": "", "http://a/c": ""},
        [],
    )
    with pytest.raises(SourceError, match="has more than 50 MiB"):
        read_sitemap("s", zipped(b" " * (51 * 2**20)))


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nAllow: /a/b\nDisallow: /a", "/a/c", False),
        ("User-agent: *\nAllow: /p\nDisallow: /p", "/p", True),
        ("User-agent: other\nDisallow: /\n\nUser-agent: *\nAllow: /", "/a", True),
        ("User-agent: *\nDisallow: /\nUser-agent: HEAL-etl\nDisallow: /x", "/a", True),
        ("User-agent: other\nUser-agent: heal-etl\nDisallow: /x # no\n", "/x", False),
        ("User-agent: *\nDisallow: /*.pdf$", "/a/b.pdf", False),
        ("User-agent: *\nDisallow: /*.pdf$", "/a/b.pdf?x", True),
        ("User-agent: *\nDisallow: /a$", "/a", False),
        ("User-agent: *\nDisallow: /a$", "/ab", True),
        ("User-agent: *\nDisallow: /*?x=*&y=", "/q?x=1&y=2", False),
        ("User-agent: *\nDisallow: /caf%C3%A9", "/café", False),
        ("Disallow: /\nnonsense", "/a", True),
    ],
)
def test_rules_of_robots_txt(text: str, path: str, allowed: bool) -> None:
    assert parse_robots(text).allows(path) is allowed
