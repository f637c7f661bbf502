"""One record that the database refuses never stops a run; only a lost connection is a lost connection."""

import json
import random

import psycopg
import pytest

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.db import Connection, is_fault_of_values, is_lost
from tests.field.inbox import column, ingest, names, open_faults, put_all, states


def words(number: int) -> str:
    """So many different words, more than a text search vector holds."""
    generator = random.Random(1)
    return " ".join(f"w{generator.getrandbits(60):x}" for _ in range(number))


def test_a_title_that_no_search_vector_holds_is_quarantined_alone(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The parsers bound titles; whatever reaches the store all the same must not stop the others.
    original = "heal_tasks.steps.reading.source_reader.read_records"
    huge = words(90_000)

    def records(source: object, file: object, **limits: int) -> list[Record]:
        del source, file, limits
        made = [
            Record(str(number), f"Title {number}", f"text {number}", {}, "a.jsonl", number) for number in range(1, 700)
        ]
        made[300] = Record("bad", huge, "a body", {}, "a.jsonl", 301)
        return made

    monkeypatch.setattr(original, records)
    put_all(settings, {"a.jsonl": "{}"})
    made = ingest(settings)
    assert (made.refs["new"], made.counts["rejected"]) == (698, 1)
    assert "bad" not in names(auto)
    assert states(auto) == {"a.jsonl": "partly"}
    (reason,) = open_faults(auto)
    assert reason.startswith("the database refused it (string is too long for tsvector")
    assert reason.endswith("shorten its title or text, or correct the value")
    assert column(auto, "SELECT line FROM heal.quarantine") == [301]


def test_a_changed_record_that_is_refused_keeps_its_document(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all(settings, {"a.jsonl": json.dumps({"id": "x", "title": "T", "text": "good"})})
    ingest(settings)
    monkeypatch.setattr(
        "heal_tasks.steps.reading.source_reader.read_records",
        lambda source, file, **limits: [Record("x", words(90_000), "good", {}, "a.jsonl", 1)],
    )
    put_all(settings, {"a.jsonl": "{} "})
    ingest(settings)
    assert column(auto, "SELECT title FROM heal.document WHERE deleted_at IS NULL") == ["T"]


@pytest.mark.parametrize(
    ("state", "lost", "values"),
    [
        ("08006", True, False), ("57P01", True, False), ("57P03", True, False), (None, True, False),
        ("54000", False, True), ("22001", False, True), ("22P05", False, True), ("23505", False, True),
        ("53100", False, False), ("53200", False, False), ("40P01", False, False), ("55P03", False, False),
        ("57014", False, False), ("42501", False, False), ("58030", False, False),
    ],
)  # fmt: skip
def test_errors_by_whose_they_are(state: str | None, lost: bool, values: bool) -> None:
    error = psycopg.errors.lookup(state)("m") if state else psycopg.OperationalError("server closed the connection")
    assert (is_lost(error), is_fault_of_values(error)) == (lost, values)


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (psycopg.OperationalError("closed"), RetryableError, "lost the database"),
        (psycopg.errors.AdminShutdown("stops"), RetryableError, "lost the database"),
        (psycopg.errors.ProgramLimitExceeded("too long"), StoreError, "the database refused a value"),
        (psycopg.errors.DiskFull("no space"), RetryableError, "the disk of the database server is full"),
        (psycopg.errors.DeadlockDetected("deadlock"), RetryableError, "the database server refused .*; run it again"),
    ],
)
def test_a_step_says_what_the_database_said(
    settings: Settings, raised: Exception, kind: type[Exception], message: str
) -> None:
    def body(context: Context) -> Outcome:
        raise raised

    with pytest.raises(kind, match=message):
        Step("odd", body, None).run(settings, Manifest(run_id="r"))


def test_a_lost_connection_in_the_middle_of_a_batch_is_no_record_s_fault(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heal_tasks.store.documents.documents import DocumentRepository

    def lost(*_: object, **__: object) -> None:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(DocumentRepository, "apply_records", lost)
    put_all(settings, {"a.txt": "a"})
    with pytest.raises(RetryableError, match="lost the database"):
        ingest(settings)
    assert states(auto) == {}
