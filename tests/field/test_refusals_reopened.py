"""What was refused is read again as soon as its cause is gone, and a failure to read is never settled."""

import os

import pytest

from heal_tasks.core.errors import SourceError
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.files import FolderSource
from heal_tasks.store.db import Connection
from tests.field.inbox import ingest, names, open_faults, put_all, states

LONG = "x " * 60_000


def with_limit(settings: Settings, megabytes: float) -> Settings:
    return settings.model_copy(update={"max_file_mb": megabytes})


def test_a_file_over_the_limit_is_read_once_the_limit_is_raised(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"big.txt": LONG, "small.txt": "A small text."})
    ingest(with_limit(settings, 0.1))
    assert names(auto) == ["small.txt"]
    assert states(auto) == {"big.txt": "refused", "small.txt": "read"}
    row = auto.execute("SELECT reason, decided_by FROM heal.source_file WHERE path = 'big.txt'").fetchone()
    assert row is not None
    assert row[0].endswith("split it or raise HEAL_MAX_FILE_MB")
    assert row[1].startswith("HEAL_MAX_FILE_MB=0.1 MAX_DOCUMENT_CHARS=")
    ingest(with_limit(settings, 1))
    assert names(auto) == ["big.txt", "small.txt"]
    assert states(auto) == {"big.txt": "read", "small.txt": "read"}
    assert open_faults(auto) == []


@pytest.mark.parametrize(
    ("name", "content", "constant", "before", "after"),
    [
        ("long.txt", LONG, "MAX_DOCUMENT_CHARS", 1000, 10**6),
        ("rows.jsonl", '{"id": 1, "text": "a"}\n{"id": 2, "text": "' + LONG + '"}', "MAX_DOCUMENT_CHARS", 1000, 10**6),
        ("broken.jsonl", '{"id": 1, "text": "a"}\n{"id": 2}', "PARSER_VERSION", 1, 2),
    ],
)
def test_refused_records_are_read_again_when_what_decided_has_changed(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch,
    name: str, content: str, constant: str, before: int, after: int,
) -> None:  # fmt: skip
    module = "heal_tasks.steps.reading.source_reader"
    read: list[str] = []
    original = FolderSource.read

    def counted(source: FolderSource, file: SourceFile, limit: int) -> bytes:
        read.append(file.path)
        return original(source, file, limit)

    monkeypatch.setattr(FolderSource, "read", counted)
    monkeypatch.setattr(f"{module}.{constant}", before)
    put_all(settings, {name: content, "good.txt": "Good."})
    ingest(settings)
    assert states(auto)[name] in ("partly", "refused")
    ingest(settings)
    assert read == [name, "good.txt"] if name < "good.txt" else ["good.txt", name]
    monkeypatch.setattr(f"{module}.{constant}", after)
    ingest(settings)
    assert read[2:] == [name]


def test_a_read_error_is_tried_again_in_every_run_and_keeps_the_documents(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = put_all(settings, {"a.txt": "The first text.", "b.txt": "The second text."})
    ingest(settings)
    os.utime(inbox / "a.txt", ns=(1, 1))
    original = FolderSource.read

    def refused(source: FolderSource, file: SourceFile, limit: int) -> bytes:
        if file.path == "a.txt":
            raise SourceError("a.txt cannot be read (Permission denied); check its rights")
        return original(source, file, limit)

    monkeypatch.setattr(FolderSource, "read", refused)
    for _ in range(2):
        made = ingest(settings)
        assert made.counts["rejected"] == 1
        assert states(auto) == {"a.txt": "failed", "b.txt": "read"}
        assert names(auto) == ["a.txt", "b.txt"]
    monkeypatch.setattr(FolderSource, "read", original)
    assert ingest(settings).counts["rejected"] == 0
    assert states(auto) == {"a.txt": "read", "b.txt": "read"}
    assert open_faults(auto) == []


def test_an_id_that_another_file_held_is_taken_when_that_file_is_gone(settings: Settings, auto: Connection) -> None:
    inbox = put_all(
        settings,
        {
            "a.jsonl": '{"id": "same", "text": "from a"}',
            "b.jsonl": '{"id": "same", "text": "from b"}\n{"id": "b", "text": "other"}',
        },
    )
    ingest(settings)
    assert states(auto) == {"a.jsonl": "read", "b.jsonl": "partly"}
    (inbox / "a.jsonl").unlink()
    ingest(settings)
    assert states(auto) == {"b.jsonl": "read"}
    assert names(auto) == ["b", "same"]
    assert open_faults(auto) == []


def test_again_reads_everything_whatever_its_fingerprint(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {"a.txt": "before"})
    os.utime(inbox / "a.txt", ns=(1, 1))
    ingest(settings)
    put_all(settings, {"a.txt": "behind"})
    os.utime(inbox / "a.txt", ns=(1, 1))
    assert ingest(settings).refs["changed"] == 0
    assert ingest(settings, read_again=1).refs["changed"] == 1


def test_quarantine_of_an_earlier_run_stays_in_its_report_and_is_marked_as_mended(
    settings: Settings, auto: Connection
) -> None:
    put_all(settings, {"a.jsonl": '{"id": 1}', "b.jsonl": '{"id": 1}', "c.txt": "c"})
    first = ingest(settings)
    put_all(settings, {"a.jsonl": '{"id": 1, "text": "mended"}'})
    (settings.var_dir / "inbox" / "b.jsonl").unlink()
    ingest(settings)
    rows = auto.execute("SELECT run_id, mended_at IS NOT NULL FROM heal.quarantine").fetchall()
    assert rows == [(first.run_id, True)] * 2


def test_files_of_an_older_version_are_read_again_where_a_record_was_refused(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all(settings, {"a.jsonl": '{"id": 1}\n{"id": 2, "text": "b"}', "b.txt": "b"})
    ingest(settings)
    auto.execute("UPDATE heal.source_file SET reason = '', decided_by = ''")  # as the migration leaves them
    read = list[str]()
    original = FolderSource.read

    def counted(source: FolderSource, file: SourceFile, limit: int) -> bytes:
        read.append(file.path)
        return original(source, file, limit)

    monkeypatch.setattr(FolderSource, "read", counted)
    ingest(settings)
    assert read == ["a.jsonl"]
