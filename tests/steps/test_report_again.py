"""The report of a run that ended earlier: its numbers, and the generation that was live at its end."""

from pathlib import Path

import pytest

from heal_tasks.cli.run_summary import print_report
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.runs.runs import RunRepository
from tests.steps.conftest import Built
from tests.steps.test_report import activate, page


def test_a_report_that_is_written_again_has_the_numbers_at_the_end_of_the_run(
    auto: Connection, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, documents = RunRepository(auto), DocumentRepository(auto)

    def report(*names: str) -> str:
        documents.apply_records(
            "s", [Record(name, "T", f"text of {name}") for name in names], lambda _, body: [("", body)]
        )
        made = load_step("report").run(settings, Manifest(run_id="old"))
        print_report(auto, "old")
        page_of_run = (Path(made.text("report_uri")) / "report.html").read_text()
        return " ".join(f"{page_of_run} {capsys.readouterr().out}".split())

    def said(text: str, number: int) -> bool:
        return f"<p>{number} documents in {number} chunks" in text and f"Documents {number} in {number} chunks" in text

    runs.open_run("old")
    runs.begin("route", "f", 0, "old")
    runs.finish("route", "f", 0, "old", {"note": "", "counts": {}, "refs": {}})
    first = report("a")
    assert said(first, 1)
    before = runs.get_run("old")
    assert said(report("b", "c"), 1)
    assert runs.get_run("old") == before
    runs.begin("nudge_live", "f", 0, "old")
    runs.finish("nudge_live", "f", 0, "old", {"note": "7 rows moved", "counts": {}, "refs": {}})
    after = report("d")
    assert said(after, 4), "the run went on, and this is its end"
    assert "7 rows moved" in after


def test_the_generation_of_a_run_is_the_one_that_was_live_at_its_end(
    built: Built, shared: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    first = activate(shared, built.tree.run.topic_run_id)
    page(built, shared, "idle")
    activate(shared, None)
    print_report(shared, "idle")
    out = capsys.readouterr().out
    assert f"generation {first} (space" in out
    assert ", previous now" in " ".join(out.split())
    assert f"of generation {first}; documents" in out
    load_step("report").run(built.settings, Manifest(run_id="idle"))
    run = RunRepository(shared).get_run("idle")
    assert run is not None
    assert run.generation_id == first
