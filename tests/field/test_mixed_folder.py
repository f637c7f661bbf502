"""Fifty mixed files, broken and hostile ones among them: no good text is lost, and every bad file is named."""

import json
from functools import partial

import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.store.db import Connection
from tests.field import mixed_folder as made
from tests.field.inbox import column, ingest, open_faults, put_all, states
from tests.sources.formats.office import extended


def planted_folder() -> made.Garden:
    """The good files."""
    garden = made.Garden()
    for number in range(2):
        garden.add(f"word/report {number}.docx", made.word_file)
        garden.add(f"tables/prices {number}.xlsx", made.workbook_file)
        garden.add(f"talks/plan {number}.pptx", made.slides_file)
        garden.add(f"paper {number}.pdf", made.pdf_file)
        garden.add(f"site/page {number}.html", made.page_file)
        garden.add(f"site/notes {number}.md", made.markdown_file)
        garden.add(f"site/manual {number}.rst", made.rst_file)
        garden.add(f"study {number}.ipynb", made.notebook_file)
        garden.add(f"books/book {number}.epub", made.book_file)
    garden.add("word/with macros.docm", lambda plant: extended(made.word_file(plant), {"word/vbaProject.bin": b"Sub"}))
    garden.add("word/long table.docx", partial(made.word_file, rows=60))
    garden.add("tables/long.xlsx", partial(made.workbook_file, rows=300))
    garden.add("tables/with macros.xlsm", made.workbook_file)
    garden.add("talks/long.ppsx", partial(made.slides_file, count=8))
    garden.add("long.PDF", partial(made.pdf_file, pages=8))
    garden.add("site/old.htm", lambda plant: made.page_file(plant) + "é".encode("cp1252"))
    garden.add("site/strict.xhtml", made.page_file)
    garden.add("mail/order.eml", made.mail_file)
    garden.add("data/rows.jsonl", made.lines_file)
    garden.add("data/rows.ndjson", made.lines_file)
    garden.add("data/rows.json", lambda plant: json.dumps(made.rows_of(plant)).encode())
    garden.add("data/rows.csv", made.csv_file)
    garden.add("data/export.csv", partial(made.csv_file, delimiter=";"))
    garden.add("data/rows.tsv", partial(made.csv_file, delimiter="\t"))
    garden.add("data/rows.parquet", made.parquet_file)
    garden.add("plain.txt", lambda plant: plant("text").encode())
    garden.add("data/one.json", lambda plant: json.dumps(made.rows_of(plant, 1)).encode())
    garden.add("wide.txt", lambda plant: plant("text").encode("utf-16"))
    return garden


def bad_files(good: dict[str, bytes]) -> dict[str, tuple[bytes, str]]:
    """Broken and hostile files, each with the beginning of the reason."""
    bomb = extended(good["word/report 0.docx"], {"word/document.xml": b"<a>" + b" " * (260 * 2**20)})
    talk = good["talks/plan 0.pptx"]
    entities = b'<!DOCTYPE d [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><d>&b;</d>'
    return {
        "bad/cut off.docx": (good["word/report 0.docx"][:5000], "the file is no complete archive"),
        "bad/bomb.docx": (bomb, "the file unpacks to more than 256 MiB"),
        "bad/entities.pptx": (
            extended(talk, {"ppt/presentation.xml": entities}),
            "ppt/presentation",
        ),
        "bad/locked.xlsx": (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 999,
            "the file is encrypted, or in the format",
        ),
        "bad/renamed.xlsx": (good["paper 0.pdf"], "the file is no complete archive"),
        "bad/cut off.pdf": (good["paper 0.pdf"][:600], "PDF: the file cannot be read"),
        "bad/broken.ipynb": (b'{"cells": [', "the notebook is no JSON"),
        "bad/cut off.parquet": (good["data/rows.parquet"][:300], "the file is no Parquet table"),
        "bad/no.eml": (b"hello", "the file is no e-mail"),
        "bad/empty.md": (b"", "the file is empty"),
    }


def test_fifty_mixed_files_lose_no_text(settings: Settings, auto: Connection) -> None:
    garden = planted_folder()
    bad = bad_files(garden.files)
    others: dict[str, str | bytes] = {"photo.png": b"\x89PNG", "program.exe": b"MZ", "Makefile": "all:\n"}
    put_all(settings, {**garden.files, **{name: data for name, (data, _) in bad.items()}, **others})
    assert len(garden.files) + len(bad) + len(others) >= 50

    found = ingest(settings)

    by_path = states(auto)
    assert {path for path, state in by_path.items() if state == "read"} == garden.files.keys()
    assert {path for path, state in by_path.items() if state == "refused"} == bad.keys()
    assert {path for path, state in by_path.items() if state == "skipped"} == others.keys()
    assert found.counts["rejected"] == len(bad)
    reasons = dict(auto.execute("SELECT path, reason FROM heal.quarantine").fetchall())
    for name, (_, reason) in bad.items():
        assert reasons[name].startswith(reason) and ";" in reasons[name], reasons[name]  # the cure is behind it
    assert len(open_faults(auto)) == len(bad)

    query = """SELECT concat_ws(E'\n', d.title, d.external_id, c.heading, c.text)
        FROM heal.chunk c JOIN heal.document d USING (document_id)"""
    kept = " ".join("\n".join(column(auto, query)).split())
    lost = [place for word, place in garden.planted.items() if f"The {word} grows here." not in kept]
    assert lost == []


@pytest.mark.parametrize("name", ["word/long table.docx", "tables/long.xlsx"])
def test_rows_of_long_tables_are_whole_and_have_their_header(settings: Settings, auto: Connection, name: str) -> None:
    garden = made.Garden()
    maker = {"docx": partial(made.word_file, rows=60), "xlsx": partial(made.workbook_file, rows=300)}
    garden.add(name, maker[name.rpartition(".")[2]])
    put_all(settings, dict(garden.files))
    ingest(settings)
    texts = column(auto, "SELECT text FROM heal.chunk ORDER BY ordinal")
    with_rows = [text for text in texts if text.count("\n| ") > 2]
    assert len(with_rows) > 5
    (header,) = {next(line for line in text.splitlines() if line.startswith("| ")) for text in with_rows}
    assert header == "| Name | Price | Note |" if name.endswith("xlsx") else "cell" not in header
    assert all(line.endswith(" |") for text in with_rows for line in text.splitlines() if line.startswith("| "))
    headings = set(column(auto, "SELECT heading FROM heal.chunk"))
    assert any("Sheet" in heading for heading in headings) if name.endswith("xlsx") else any("›" in h for h in headings)
