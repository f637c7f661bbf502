"""Files that are not ours are skipped and counted, and never count as broken; a source that gives nothing says so."""

from pathlib import Path
from typing import Any

import pytest

from heal_tasks.cli.doctor import examine
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.sources.parse import PARSERS, parse_txt
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.store.db import Connection
from tests.field.inbox import ingest, names, open_faults, put_all, states

PICTURE = b"\x89PNG\r\n\x1a\n\x00"


def test_pictures_beside_pages_are_skipped_and_counted(settings: Settings, auto: Connection) -> None:
    files: dict[str, str | bytes] = {f"page{number}.md": f"# Page {number}\n\nText." for number in range(20)}
    files |= {f"img/{number}.png": PICTURE for number in range(12)}
    files |= {"Makefile": "all:\n", "LICENSE": "Do.", "README": "Read.", "x.PNG": PICTURE, "t.tar.gz": b"\x1f\x8b"}
    put_all(settings, files)
    made = ingest(settings)
    assert made.note == (
        "20 documents: 20 new, 0 changed, 0 deleted, 0 rejected; 17 files skipped: .png 13, no suffix 3, .gz 1"
    )
    assert made.counts["skipped"] == 17
    assert open_faults(auto) == []
    assert states(auto)["img/0.png"] == states(auto)["README"] == "skipped"
    row = auto.execute("SELECT reason FROM heal.source_file WHERE path = 'img/0.png'").fetchone()
    assert row is not None
    assert row[0].startswith("files of kind '.png' are not read; supported are .")
    assert ingest(settings).note.endswith("17 files skipped: .png 13, no suffix 3, .gz 1")
    (settings.var_dir / "inbox" / "README").unlink()
    ingest(settings)
    assert "README" not in states(auto)


def test_many_kinds_are_named_in_short(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.txt": "a"} | {f"x.k{number}": "x" for number in range(9)})
    assert ingest(settings).note.endswith("9 files skipped: .k0 1, .k1 1, .k2 1, .k3 1, .k4 1 and 4 other kinds")
    del auto


def test_two_spellings_of_an_unknown_file_are_both_skipped(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.txt": "a", "caf\u00e9.png": PICTURE, "cafe\u0301.png": PICTURE})
    assert ingest(settings).note.endswith("0 rejected; 2 files skipped: .png 2")
    del auto


def test_a_kind_that_a_later_version_knows_is_read_then(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all(settings, {"a.txt": "a", "notes.org": "b"})
    ingest(settings)
    monkeypatch.setitem(PARSERS, ".org", parse_txt)
    ingest(settings)
    assert names(auto) == ["a.txt", "notes.org"]
    assert states(auto)["notes.org"] == "read"


def test_quarantine_of_unknown_kinds_by_an_older_version_is_mended(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.txt": "a", "b.png": PICTURE})
    auto.execute(
        "INSERT INTO heal.quarantine (run_id, source, path, line, reason, raw) "
        "VALUES ('old', %s, 'b.png', 0, 'files of kind .png are not read', '')",
        settings.sources,
    )
    auto.execute(
        "INSERT INTO heal.source_file (source, path, fingerprint, state) VALUES (%s, 'b.png', '1', 'partly')",
        settings.sources,
    )
    ingest(settings)
    assert open_faults(auto) == []


def test_links_that_are_left_out_are_named(settings: Settings, auto: Connection, tmp_path: Path) -> None:
    inbox = put_all(settings, {"real.txt": "text"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (inbox / "out.txt").symlink_to(outside / "secret.txt")
    (inbox / "deep").mkdir()
    (inbox / "folder").symlink_to(inbox / "deep")
    (inbox / "broken.txt").symlink_to("nothing.txt")
    (inbox / "inside.txt").symlink_to("real.txt")
    made = ingest(settings)
    assert names(auto) == ["inside.txt", "real.txt"]
    assert made.note.endswith("3 files skipped: broken link 1, link out of the folder 1, link to a folder 1")
    reasons = dict(auto.execute("SELECT path, reason FROM heal.source_file WHERE state = 'skipped'").fetchall())
    assert reasons == {
        "out.txt": "link out of the folder; put the file itself there",
        "folder": "link to a folder; put the file itself there",
        "broken.txt": "broken link; put the file itself there",
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "lists no file; check its spelling, and that documents have been put there"),
        ({"a.png": PICTURE, "b.png": PICTURE}, "has no document: no file is of a kind that is read ("),
        ({"a.jsonl": '{"id": 1}'}, "has no document: every file was refused; first: a.jsonl: text is missing"),
    ],
)
def test_a_source_that_gives_nothing_is_named(
    settings: Settings, auto: Connection, files: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    put_all(settings, files)
    made = ingest(settings)
    assert f"{settings.sources[0]} {message}" in made.note
    assert any(message in record.getMessage() for record in caplog.records)
    (warning,) = [line for line in make_plan(settings).lines() if line.startswith("warning")]
    assert message in warning
    put_all(settings, {"good.txt": "text"})
    assert message not in ingest(settings).note
    del auto


def test_of_two_sources_the_empty_one_is_named(settings: Settings, auto: Connection, tmp_path: Path) -> None:
    put_all(settings, {"a.txt": "a"})
    (tmp_path / "typo").mkdir()
    both = load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(),
        sources=(*settings.sources, f"file:{tmp_path / 'typo'}"), source_roots=(f"file:{tmp_path}",),
    )  # fmt: skip
    made = ingest(both)
    assert made.note.startswith("1 documents: 1 new")
    assert made.note.endswith(
        f"file:{tmp_path / 'typo'} lists no file; check its spelling, and that documents have been put there"
    )
    del auto


@pytest.mark.parametrize(
    ("files", "level", "text"),
    [
        ({}, "note", "no file; check its spelling, or put documents there"),
        ({"a.png": PICTURE, "LICENSE": "x"}, "note", "none of its 2 files is of a kind that is read (.jsonl, "),
        ({"a.png": PICTURE, "b.txt": "x"}, "ok", "readable"),
    ],
)
def test_doctor_says_what_a_source_has(settings: Settings, files: dict[str, Any], level: str, text: str) -> None:
    put_all(settings, files)
    (found,) = [item for item in examine(settings) if item.subject == "sources"]
    assert found.level == level
    assert f"{settings.sources[0]}: {text}" in found.text
