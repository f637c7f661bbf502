"""A site by its sitemap: what is asked for, what is read, what robots.txt forbids, and what a fault concludes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from heal_tasks.core.errors import RetryableError, SettingsError, SourceError
from heal_tasks.core.settings import load_settings
from heal_tasks.core.types import Record, SourceFile
from heal_tasks.sources import sitemap, web
from heal_tasks.sources.base import OpenSource, open_source
from heal_tasks.sources.parse import read_records
from heal_tasks.store.db import Connection
from tests.sources.conftest import Run
from tests.sources.website import Page, WebSite, html, no_waiting, zipped


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(web, "sleep", no_waiting)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEAL_SOURCES", raising=False)


@pytest.fixture
def site() -> Iterator[WebSite]:
    """Pages with an ETag, with a time, with neither, with an old date in the sitemap, and with one of today."""
    pages = {
        "/": Page(html("Welcome to the valves."), etag='"é1"'),
        "/docs/pump.php?id=1&x=2": Page(html("The pump of the second hall."), modified="Mon, 02 Nov 2026 10:00:00 GMT"),
        "/docs/release-1.2": Page(html("Nothing says when it changed.")),
        "/docs/old.txt": Page(b"An old text about seals.", "text/plain", lastmod="2024-01-05T10:00:00+01:00"),
        "/docs/v2.1": Page(html("The second edition."), etag='"v"', lastmod=f"{datetime.now(UTC):%Y-%m-%d}"),
    }
    with WebSite(pages) as server:
        yield server


def opened(site: WebSite, tmp_path: Path, more: str = "", path: str = "/sitemap.xml") -> OpenSource:
    (tmp_path / "sources.toml").write_text(
        f'[site]\nkind = "sitemap"\nlocation = "{site.url}{path}"\npages_per_s = 100\n{more}\n'
    )
    settings = load_settings(var_dir=tmp_path / "var")
    return open_source("source:site", s3_endpoint_url=None, tables=settings.source_tables)


def test_an_unchanged_site_costs_a_conditional_request_per_page_and_none_for_old_dates(
    site: WebSite, run: Run, auto: Connection, tmp_path: Path
) -> None:
    opened(site, tmp_path, 'metadata = { from = "web" }')
    assert run()["new"] == 5
    assert site.take() == [(path, False) for path in sorted(site.pages)]  # each once: listed and read in one request
    rows = dict(auto.execute("SELECT external_id, body FROM heal.document").fetchall())
    assert rows[f"{site.url}/docs/old.txt"] == "An old text about seals."
    assert rows[f"{site.url}/docs/pump.php?id=1&x=2"] == "The pump of the second hall."
    assert run()["changed"] == 0
    assert site.take() == [
        ("/", True), ("/docs/pump.php?id=1&x=2", True), ("/docs/release-1.2", False), ("/docs/v2.1", True),
    ]  # fmt: skip
    opened(site, tmp_path, 'metadata = { from = "web" }\nlastmod = false')
    assert run()["deleted"] == 0
    assert ("/docs/old.txt", False) in site.take()
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
    assert auto.execute("SELECT count(*) FROM heal.document WHERE deleted_at IS NULL").fetchone() == (13,)
    del site.pages["/sitemap.xml"]
    assert run()["deleted"] == 1


def test_robots_txt_and_other_hosts(site: WebSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = list[float]()
    monkeypatch.setattr(web, "sleep", waits.append)
    rules = b"User-agent: *\nDisallow: /docs/*.php\nAllow: /docs\nCrawl-delay: 7\n"
    site.pages["/robots.txt"] = Page(rules, "text/plain", listed=False)
    strange = ("http://127.0.0.1:1/x", "http://[1", site.url.replace("//", "//user@"), "ftp://127.0.0.1/y", "/z")
    more = "".join(f"<url><loc>{address}</loc></url>" for address in strange)
    xml = site.sitemap().replace(b"</urlset>", f"{more}</urlset>".encode())
    site.pages["/sitemap.xml"] = Page(xml, "application/xml", listed=False)
    files = {file.path.removeprefix(site.url): file.left_out for file in opened(site, tmp_path).list_files()}
    assert files["/docs/pump.php?id=1&x=2"] == "forbidden by robots.txt"
    assert [files[address.removeprefix(site.url)] for address in strange] == ["another host"] * 5
    assert [path for path, reason in files.items() if not reason] == [
        "/",
        "/docs/old.txt",
        "/docs/release-1.2",
        "/docs/v2.1",
    ]
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
        "/docs/pump.php?id=1&x=2", "/docs/release-1.2", "/docs/v2.1",
    ]  # fmt: skip
    index = b"<sitemapindex><sitemap><loc>http://127.0.0.1:1/b.xml</loc></sitemap></sitemapindex>"
    site.pages["/index.xml"] = Page(index, listed=False)
    with pytest.raises(SourceError, match="names a sitemap of another host"):
        list(opened(site, tmp_path, "", "/index.xml").list_files())


def test_redirects_stay_on_the_host(site: WebSite, tmp_path: Path) -> None:
    site.pages["/moved"] = Page(status=301, headers={"Location": "/"})
    site.pages["/gr%C3%B6%C3%9Fe"] = Page(html("Sizes."), listed=False)
    raw = "/größe#top".encode().decode("latin-1")  # as servers write it that do not encode addresses
    site.pages["/size"] = Page(status=301, headers={"Location": raw})
    for number in ("", *range(sitemap.MAX_FAILED_IN_A_ROW)):
        site.pages[f"/away{number}"] = Page(status=302, headers={"Location": "http://169.254.169.254/latest"})
    site.pages["/nowhere"] = Page(status=302, headers={"Location": "http://[1"})
    site.pages["/circle"] = Page(status=302, headers={"Location": "/circle"})
    source = opened(site, tmp_path)
    files = {file.path.removeprefix(site.url): file for file in source.list_files()}
    assert source.read(files["/moved"], 10**6) == site.pages["/"].body
    assert source.read(files["/size"], 10**6) == html("Sizes.")
    with pytest.raises(SourceError, match=r"/away redirects to another host \(http://169\.254\.169\.254/latest\)"):
        source.read(files["/away"], 10**6)
    with pytest.raises(SourceError, match=r"/nowhere redirects to no address \(http://\[1\)"):
        source.read(files["/nowhere"], 10**6)
    with pytest.raises(SourceError, match="/circle redirects more than 5 times"):
        source.read(files["/circle"], 10**6)


def test_a_text_in_the_encoding_that_only_the_server_names(site: WebSite, tmp_path: Path) -> None:
    pages = {
        "/1.html": ("<p>Привет, мир</p>", "cp1251", "text/html; charset=Windows-1251"),
        "/2.txt": ("Zażółć gęślą jaźń", "iso8859_2", 'text/plain;charset="iso-8859-2"'),
        "/3.csv": ("id,text\n1,水泵每周必须加油\n", "gb18030", "text/csv; header=present; charset=gb2312"),
        "/4.html": ("<meta charset=koi8-r>Привет", "koi8_r", "text/html; charset=klingon"),
        "/5.html": ("<meta charset=koi8-r>Привет", "utf-8", "text/html; charset=koi8-r"),
    }
    site.pages = {path: Page(text.encode(codec), kind) for path, (text, codec, kind) in pages.items()}
    source = opened(site, tmp_path)
    found = [
        record.body
        for file in source.list_files()
        for record in read_records(source, file, max_bytes=1000, max_chars=1000)
        if isinstance(record, Record)
    ]
    assert found == ["Привет, мир", "Zażółć gęślą jaźń", "水泵每周必须加油", "Привет", "Привет"]
    assert len(source.read(SourceFile(f"{site.url}/1.html", "", 0), 10)) == 11


def test_kinds_by_the_type_of_the_server_or_by_the_name(site: WebSite, tmp_path: Path) -> None:
    site.pages = {
        "/a.docx": Page(b"PK", "application/zip"),
        "/b.xlsx": Page(b"PK", "application/vnd.ms-excel"),
        "/c.zip": Page(b"PK", "application/zip"),
        "/d": Page(b"%PDF", "application/pdf"),
        "/e.php": Page(b"<p>x", "text/html"),
        "/f.txt": Page(b"x", "text/plain"),
    }
    kinds = [file.kind for file in opened(site, tmp_path).list_files()]
    assert kinds == [".docx", ".xlsx", ".zip", ".pdf", ".html", ".txt"]


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
