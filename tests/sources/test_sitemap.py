"""A site by its sitemap: what is asked for, what is read, what robots.txt forbids, and what a fault concludes."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.errors import HealError, RetryableError, SettingsError, SourceError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.core.types import SourceFile
from heal_tasks.sources import sitemap, web
from heal_tasks.sources.base import OpenSource, open_source
from heal_tasks.sources.robots import parse_robots
from heal_tasks.sources.sitemap_xml import read_sitemap
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from tests.sources.website import Page, WebSite, html, no_waiting, zipped

Run = Callable[[], dict[str, float]]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(web.time, "sleep", no_waiting)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEAL_SOURCES", raising=False)


@pytest.fixture
def site() -> Iterator[WebSite]:
    """A site of four pages, with an ETag, with a time, with neither, and with an old date in the sitemap."""
    pages = {
        "/": Page(html("Welcome to the valves."), etag='"1"'),
        "/docs/pump.php?id=1&x=2": Page(html("The pump of the second hall."), modified="Mon, 02 Nov 2026 10:00:00 GMT"),
        "/docs/release-1.2": Page(html("Nothing says when it changed.")),
        "/docs/old.txt": Page(b"An old text about seals.", "text/plain", lastmod="2024-01-05T10:00:00+01:00"),
    }
    with WebSite(pages) as server:
        yield server


def opened(site: WebSite, tmp_path: Path, more: str = "", path: str = "/sitemap.xml") -> OpenSource:
    (tmp_path / "sources.toml").write_text(
        f'[site]\nkind = "sitemap"\nlocation = "{site.url}{path}"\npages_per_s = 100\n{more}\n'
    )
    settings = load_settings(var_dir=tmp_path / "var")
    return open_source("source:site", s3_endpoint_url=None, tables=settings.source_tables)


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    """Ingest and return the counts."""
    numbers = itertools.count()

    def counts() -> dict[str, float]:
        settings = load_settings(var_dir=tmp_path / "var", database_url=database_url)
        return dict(load_step("ingest").run(settings, Manifest(run_id=str(next(numbers)))).counts)

    return counts


def test_an_unchanged_site_costs_a_conditional_request_per_page_and_none_for_old_dates(
    site: WebSite, run: Run, auto: Connection, tmp_path: Path
) -> None:
    opened(site, tmp_path, 'metadata = { from = "web" }')
    assert run()["new"] == 4
    assert site.take() == [(path, False) for path in sorted(site.pages)]  # each once: listed and read in one request
    rows = dict(auto.execute("SELECT external_id, body FROM heal.document").fetchall())
    assert rows[f"{site.url}/docs/old.txt"] == "An old text about seals."
    assert rows[f"{site.url}/docs/pump.php?id=1&x=2"] == "The pump of the second hall."
    assert run()["changed"] == 0
    assert site.take() == [("/", True), ("/docs/pump.php?id=1&x=2", True), ("/docs/release-1.2", False)]
    site.pages["/"] = Page(html("Welcome to the new valves."), etag='"2"')
    site.pages["/docs/release-1.2"].body = html("It has changed, and nothing says when.")
    site.pages["/docs/old.txt"] = Page(b"A newer text about seals.", "text/plain", lastmod="2025-01-05")
    del site.pages["/docs/pump.php?id=1&x=2"]
    after = run()
    assert (after["new"], after["changed"], after["deleted"]) == (0, 3, 1)


def test_a_page_that_is_gone_loses_its_documents_and_one_that_fails_keeps_them(
    site: WebSite, run: Run, auto: Connection, tmp_path: Path
) -> None:
    opened(site, tmp_path)
    run()
    site.pages["/"].status = 503
    site.pages["/docs/release-1.2"].status = 410
    site.pages["/docs/pump.php?id=1&x=2"].status = 403
    after = run()
    assert (after["deleted"], after["rejected"], after["skipped"]) == (1, 2, 1)
    reasons = {reason for (reason,) in auto.execute("SELECT reason FROM heal.quarantine")}
    assert reasons == {
        f"{site.url}/ answers HTTP 503; look at the site, or try again later",
        f"{site.url}/docs/pump.php?id=1&x=2 answers HTTP 403; the server forbids it",
    }
    site.pages["/"].status = site.pages["/docs/release-1.2"].status = 200
    assert run()["new"] == 1


def test_a_site_that_stops_answering_is_worth_a_retry_and_deletes_nothing(
    site: WebSite, run: Run, auto: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages |= {f"/more/{number}": Page(html(f"Page {number} of many.")) for number in range(8)}
    opened(site, tmp_path)
    run()
    del site.pages["/docs/old.txt"]
    site.hang_up = {f"/more/{number}" for number in range(8)}
    with pytest.raises(RetryableError, match=r"127\.0\.0\.1 does not answer: .*/more/4: connection failed"):
        run()
    site.hang_up = {"/sitemap.xml"}
    with pytest.raises(RetryableError, match=r"sitemap\.xml: connection failed"):
        run()
    site.hang_up = set()
    monkeypatch.setattr(web, "CONNECT_S", 0.5)
    site.pages["/sitemap.xml"] = Page(b"", status=500, listed=False)
    with pytest.raises(RetryableError, match="answers HTTP 500"):
        run()
    site.pages["/sitemap.xml"] = Page(b"", status=404, listed=False)
    with pytest.raises(SourceError, match="answers HTTP 404; correct the address"):
        run()
    assert auto.execute("SELECT count(*) FROM heal.document WHERE deleted_at IS NULL").fetchone() == (12,)
    del site.pages["/sitemap.xml"]
    assert run()["deleted"] == 1


def test_robots_txt_and_other_hosts(site: WebSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = list[float]()
    monkeypatch.setattr(web.time, "sleep", waits.append)
    rules = b"User-agent: *\nDisallow: /docs/*.php\nAllow: /docs\nCrawl-delay: 7\n"
    site.pages["/robots.txt"] = Page(rules, "text/plain", listed=False)
    xml = site.sitemap().replace(b"</urlset>", b"<url><loc>http://127.0.0.1:1/x</loc></url></urlset>")
    site.pages["/sitemap.xml"] = Page(xml, "application/xml", listed=False)
    files = {file.path.removeprefix(site.url): file.left_out for file in opened(site, tmp_path).list_files()}
    assert files["/docs/pump.php?id=1&x=2"] == "forbidden by robots.txt"
    assert files["http://127.0.0.1:1/x"] == "another host"
    assert [path for path, reason in files.items() if not reason] == ["/", "/docs/old.txt", "/docs/release-1.2"]
    assert "/docs/pump.php?id=1&x=2" not in [path for path, _ in site.take()]
    assert 6 < max(waits) <= 7
    site.pages["/robots.txt"].status = 503
    with pytest.raises(RetryableError, match=r"robots\.txt answers HTTP 503, so nothing may be fetched"):
        list(opened(site, tmp_path).list_files())


def test_an_index_of_zipped_sitemaps_and_patterns_of_addresses(site: WebSite, tmp_path: Path) -> None:
    index = f"<sitemapindex><sitemap><loc>{site.url}/a.xml.gz</loc></sitemap></sitemapindex>".encode()
    site.pages["/index.xml"] = Page(index, listed=False)
    site.pages["/a.xml.gz"] = Page(zipped(site.sitemap()), "application/gzip", listed=False)
    source = opened(site, tmp_path, 'include = ["docs/**"]\nexclude = ["**/*.txt"]', "/index.xml")
    assert [file.path.removeprefix(site.url) for file in source.list_files()] == [
        "/docs/pump.php?id=1&x=2", "/docs/release-1.2",
    ]  # fmt: skip
    index = b"<sitemapindex><sitemap><loc>http://127.0.0.1:1/b.xml</loc></sitemap></sitemapindex>"
    site.pages["/index.xml"] = Page(index, listed=False)
    with pytest.raises(SourceError, match="names a sitemap of another host"):
        list(opened(site, tmp_path, "", "/index.xml").list_files())


def test_redirects_stay_on_the_host(site: WebSite, tmp_path: Path) -> None:
    site.pages["/moved"] = Page(status=301, headers={"Location": "/"})
    for number in ("", *range(sitemap.MAX_FAILED_IN_A_ROW)):
        site.pages[f"/away{number}"] = Page(status=302, headers={"Location": "http://169.254.169.254/latest"})
    site.pages["/circle"] = Page(status=302, headers={"Location": "/circle"})
    source = opened(site, tmp_path)
    files = {file.path.removeprefix(site.url): file for file in source.list_files()}
    assert source.read(files["/moved"], 10**6) == site.pages["/"].body
    with pytest.raises(SourceError, match=r"/away redirects to another host \(http://169\.254\.169\.254/latest\)"):
        source.read(files["/away"], 10**6)
    with pytest.raises(SourceError, match="/circle redirects more than 5 times"):
        source.read(files["/circle"], 10**6)


def test_sizes_are_bounded(site: WebSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped(b"x" * 5_000_000)
    site.pages["/bomb"] = Page(bomb, headers={"Content-Encoding": "gzip"}, etag='"b"')
    monkeypatch.setattr(sitemap, "MAX_PAGE_BYTES", 100_000)
    source = opened(site, tmp_path)
    files = {file.path.removeprefix(site.url): file for file in source.list_files()}
    with pytest.raises(SourceError, match="/bomb has more than 0 MiB; exclude it"):
        source.read(files["/bomb"], 10**6)
    assert len(source.read(files["/"], 10)) == 11
    monkeypatch.setattr(sitemap, "MAX_KEPT_BYTES", 50)
    again = opened(site, tmp_path)
    listed = list(again.list_files())
    assert again.read(listed[0], 10**6) == site.pages["/"].body  # fetched again
    site.pages["/new"] = Page(zipped(b"y" * 50_000), headers={"Content-Encoding": "gzip"})
    assert len(again.read(SourceFile(f"{site.url}/new", "", 0), 1000)) == 1001
    monkeypatch.setattr(sitemap, "MAX_PAGES", 3)
    with pytest.raises(SourceError, match="has more than 3 pages"):
        list(opened(site, tmp_path).list_files())


def test_a_reply_that_drips_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        while not ended.is_set():
            conn, _ = listener.accept()
            with conn, contextlib.suppress(OSError):
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
    ("more", "location", "message"),
    [
        ("pages_per_s = 0", "http://127.0.0.1:1/s.xml", r"pages_per_s: is 0; write a number from 0\.01 to 100"),
        ("private = 1", "http://127.0.0.1:1/s.xml", r"private: is 1; write true or false"),
        ("", "ftp://x/s.xml", r"location: 'ftp://x/s\.xml' is no address of a site; write https://HOST/PATH"),
        ("", "https://user:hush@x/s.xml", r"location: 'x/s\.xml' is no address of a site"),
        ("", "https://münchen.de/s.xml", r"location: .* has letters beyond ASCII; write its form .* xn--"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, more: str, location: str, message: str) -> None:
    (tmp_path / "sources.toml").write_text(f'[s]\nkind = "sitemap"\nlocation = "{location}"\n{more}\n')
    tables = load_settings(var_dir=tmp_path / "var").source_tables
    with pytest.raises(SettingsError, match=message):
        open_source("source:s", s3_endpoint_url=None, tables=tables)


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
