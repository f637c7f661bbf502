"""A run that measured or loaded nothing says so, why, and what to do: in its verdict, its report, plan and doctor."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.cli.doctor import examine
from heal_tasks.cli.judgments import judgments
from heal_tasks.cli.run_summary import print_report
from heal_tasks.core.errors import InputError, StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.steps.engine.road import load_step, run_pipeline
from heal_tasks.steps.quality.measurable import why_unmeasured
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.questions.question_counts import QuestionCounts, read_question_counts
from heal_tasks.store.runs.runs import RunRepository
from tests.steps.planted_store import fill
from tests.steps.planted_systems import plant_questions

QUICK: dict[str, Any] = {"topic_perturbations": 2, "topic_max_k": 2, "train_max_steps": 2}


def verdict_of(conn: Connection, run_id: str) -> str:
    run = RunRepository(conn).get_run(run_id)
    assert run is not None
    return run.verdict or ""


def findings(settings: Settings, subject: str) -> list[tuple[str, str]]:
    return [(level, text) for level, name, text in examine(settings) if name == subject]


@pytest.fixture(scope="module")
def unasked(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Connection]]:
    """A realigned store of documents about which the extractive writer finds nothing to ask."""
    var_dir = tmp_path_factory.mktemp("var")
    settings = load_settings(var_dir=var_dir, database_url=module_database_url, **QUICK)
    (var_dir / "inbox").mkdir()
    for number in range(12):
        (var_dir / "inbox" / f"{number}.txt").write_text(" ".join(str(number * 7919 + item) for item in range(40)))
    run_pipeline(settings, "numbers", lambda manifest: None)
    with connect(module_database_url, autocommit=True) as conn:
        yield settings, conn


def test_a_run_without_questions_says_that_nothing_was_measured_and_why(
    unasked: tuple[Settings, Connection], capsys: pytest.CaptureFixture[str]
) -> None:
    _, conn = unasked
    first, *others = verdict_of(conn, "numbers").splitlines()
    assert first == (
        "Nothing could be measured: 0 questions from 12 chunks; the extractive writer found none in these texts: set "
        "HEAL_LLM_BASE_URL or HEAL_LLM_API_KEY to have a language model write them, or import judgments. So no "
        "candidate replaces the live generation; its vectors stay, with the topics of this run."
    )
    assert "No candidate beat" not in verdict_of(conn, "numbers")
    assert "No questions: 12 chunks were asked about, 0 failed, and none was kept of 0." in others
    assert "No training set: there are no training questions." in others
    assert any(line.startswith("No model was trained: there are 0 training questions") for line in others)
    print_report(conn, "numbers")
    assert "Nothing could be measured: 0 questions from 12 chunks" in capsys.readouterr().out.replace("\n", " ")
    run = RunRepository(conn).get_run("numbers")
    assert run is not None
    assert "Nothing could be measured" in (Path(str(run.report_uri)) / "report.html").read_text()
    notes = {row.step: row.result["note"] for row in RunRepository(conn).steps_of("numbers") if row.result}
    assert "not moved: there are no training questions" in notes["choose"]
    assert "too few for an index" in notes["publish"]


def test_plan_and_doctor_say_so_before_the_next_run(unasked: tuple[Settings, Connection]) -> None:
    settings, _ = unasked
    assert any(
        line.startswith("quality    nothing can be measured: 0 questions") for line in make_plan(settings).lines()
    )
    ((level, text),) = findings(settings, "questions")
    assert level == "note"
    assert text.startswith("a run now could not measure quality: 0 questions from 12 chunks")


def test_maintenance_says_that_it_measured_no_recall(unasked: tuple[Settings, Connection], auto: Connection) -> None:
    done = load_step("maintain").run(unasked[0], Manifest(run_id="maintain"))
    assert done.undone == "The recall of what is served was not measured: it has no stored questions or rows"
    assert "recall@10 not measured" in done.note
    assert "recall_active" not in done.counts


def test_a_run_over_an_empty_store_names_the_sources(auto: Connection, settings: Settings) -> None:
    (settings.var_dir / "inbox").mkdir(parents=True)
    run_pipeline(settings, "empty", lambda manifest: None)
    assert verdict_of(auto, "empty").startswith("No documents: the sources gave none")
    assert f"file:{settings.var_dir}/inbox" in verdict_of(auto, "empty")
    assert any("nothing can be measured: there are no documents" in line for line in make_plan(settings).lines())
    assert "there are no documents; HEAL_SOURCES names file:" in findings(settings, "questions")[0][1]
    done = load_step("maintain").run(settings, Manifest(run_id="maintain"))
    assert done.undone == "The recall of what is served was not measured: no generation is live"
    done = load_step("first_light").run(settings, Manifest(run_id="early"))
    assert done.undone == "Nothing can be found yet: there was no chunk to publish"


def test_long_names_of_sources_do_not_keep_a_run_from_its_end(auto: Connection, settings: Settings) -> None:
    folders = [settings.var_dir / f"{number} {'語' * 80}" for number in range(40)]
    for folder in folders:
        folder.mkdir(parents=True)
    sources = tuple(f"file:{folder}" for folder in folders)
    run_pipeline(settings.model_copy(update={"sources": sources}), "long", lambda manifest: None)
    assert verdict_of(auto, "long").endswith(sources[-1])


@pytest.mark.parametrize("name", ["route", "train"])
def test_a_step_before_its_time_says_what_is_missing(auto: Connection, settings: Settings, name: str) -> None:
    with pytest.raises(StepError, match=r"missing '.*', which an earlier step should have produced"):
        load_step(name).run(settings, Manifest(run_id="early"))


@pytest.mark.parametrize(
    ("overrides", "verdict"),
    [
        ({"dry_run": True}, "Nothing was stored: dry run; otherwise realign: No generation is live yet"),
        ({"force_route": "nothing"}, "No vector was written. The route nothing was forced by setting; 1 new"),
    ],
)
def test_a_run_that_was_to_do_nothing_does_not_claim_that_there_is_nothing_to_do(
    overrides: dict[str, Any], verdict: str, auto: Connection, settings: Settings
) -> None:
    (settings.var_dir / "inbox").mkdir(parents=True)
    (settings.var_dir / "inbox" / "one.txt").write_text("Basalt comes from volcanoes.")
    run_pipeline(settings.model_copy(update=overrides), "r", lambda manifest: None)
    assert verdict_of(auto, "r").startswith(verdict)


COUNTS = QuestionCounts(9, 20, 20, 0, (), {}, {})


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (replace(COUNTS, documents=0, chunks=0, asked=0), "there are no documents; HEAL_SOURCES names"),
        (replace(COUNTS, chunks=0, asked=0), "the 9 documents have no text"),
        (replace(COUNTS, asked=0), "there are no questions about the 20 chunks yet; heal.question_state"),
        (COUNTS, "0 questions from 20 chunks; the extractive writer found none"),
        (
            replace(COUNTS, dropped=33, dropped_by=("short", "title")),
            r"all 33 questions about 20 chunks were dropped by filters \(short, title\).*HEAL_QUESTION_FILTERS",
        ),
        (
            replace(COUNTS, generated={"train": 50, "seen_test": 12, "unseen_test": 29}, human={"seen_test": 8}),
            "of 99 questions too few are held out: 29 of unseen documents, 12 of seen documents, unseen questions, 8 "
            "of human questions; one set needs HEAL_GATE_MIN_QUESTIONS=30",
        ),
        (replace(COUNTS, generated={"seen_test": 30}), ""),
        (replace(COUNTS, human={"seen_test": 15, "unseen_test": 15}), ""),
    ],
)
def test_the_reason_names_the_step_that_gave_nothing(counts: QuestionCounts, words: str, tmp_path: Path) -> None:
    import re

    why = why_unmeasured(counts, load_settings(var_dir=tmp_path))
    assert re.match(words, why) if words else why == ""


def test_what_is_counted_is_what_is_in_use(auto: Connection) -> None:
    fill(auto, documents=3)
    auto.execute("UPDATE heal.question SET text = text || question_id")
    state = read_question_counts(auto)
    assert (state.documents, state.chunks, state.asked, state.dropped) == (4, 4, 4, 0)
    assert state.generated == {"train": 4}
    auto.execute("UPDATE heal.question SET dropped_by = 'round_trip'")
    state = read_question_counts(auto)
    assert (state.generated, state.dropped, state.dropped_by) == ({}, 4, ("short",))


def test_an_answering_step_without_questions_measures_nothing(auto: Connection, settings: Settings) -> None:
    DocumentRepository(auto).apply_records("s", [Record("d", "T", "text")], lambda title, body: [("", body)])
    wanted = settings.model_copy(update={"answer_questions": 5, "llm_base_url": "http://127.0.0.1:9/v1"})
    done = load_step("answer").run(wanted, Manifest(run_id="r", refs={"topic_run_id": 1, "best_id": 0}))
    assert done.undone == "No answers were measured: no held-out question has a known answer"


def test_judgments_of_unknown_documents_are_an_error(
    auto: Connection, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
    plant_questions(auto)
    nobodys = r"0 of 1 lines were taken.* documents are not in file:.*ingest them first"
    for text, problem in (("", "has no line"), ('{"query": "what?", "document": "unknown"}\n', nobodys)):
        (tmp_path / "judgments.jsonl").write_text(text)
        with pytest.raises(InputError, match=problem):
            judgments(tmp_path / "judgments.jsonl")
