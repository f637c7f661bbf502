"""Lists of readers as sources give them: in metadata, by a rule of the source; changed, broken and taken away."""

import json
import logging
from dataclasses import replace

import pytest

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.source_tables import Rule
from heal_tasks.core.types import silent
from heal_tasks.sources.base import open_source
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.reading.source_reader import SourceReader
from heal_tasks.store.db import Connection
from tests.field.inbox import chunks, column, ingest, names, note, open_faults, put_all, source


def acls(conn: Connection) -> dict[str, list[str] | None]:
    return dict(conn.execute("SELECT external_id, acl FROM heal.document WHERE deleted_at IS NULL").fetchall())


def line(name: str, text: str, **fields: object) -> str:
    return json.dumps({"id": name, "title": "T", "text": text} | fields)


def test_metadata_of_every_kind_of_file_name_readers(settings: Settings, auto: Connection) -> None:
    put_all(
        settings,
        {
            "a.jsonl": "\n".join(
                [
                    line("everybody", note(1)),
                    line("null", note(2), acl=None),
                    line("list", note(3), metadata={"acl": ["group:x", "alice", "alice"]}),
                    line("field", note(4), acl=["alice"]),
                    line("nobody", note(5), acl=[]),
                    line("text", note(6), acl=" bob, group:x ,"),
                    line("number", note(7), acl=[42]),
                    line("capitals", note(10), ACL="Alice"),
                ]
            ),
            "b.csv": f'id,text,acl\nrow,"{note(8)}","alice, bob"\n',
            "c.md": f"---\ntitle: Pay\nacl: [hr, ceo]\n---\n\n{note(9)}",
        },
    )
    ingest(settings)
    assert acls(auto) == {
        "everybody": None, "null": None, "list": ["alice", "group:x"], "field": ["alice"], "nobody": [],
        "text": ["bob", "group:x"], "number": ["42"], "capitals": ["Alice"], "row": ["alice", "bob"],
        "c.md": ["ceo", "hr"],
    }  # fmt: skip
    assert open_faults(auto) == []


def test_a_list_that_is_none_is_rejected_and_nobody_else_sees_the_document(
    settings: Settings, auto: Connection
) -> None:
    put_all(settings, {"a.jsonl": "\n".join([line("good", note(1)), line("bad", note(2), acl={"read": "carol"})])})
    ingest(settings)
    assert names(auto) == ["good"]
    (fault,) = open_faults(auto)
    assert "acl must be a list of principals, or a text with commas between them, but it is of type dict" in fault
    assert "carol" not in fault, "readers of heal.quarantined may not see who the readers are"


def test_a_file_whose_front_matter_is_broken_is_not_shown_to_everybody(settings: Settings, auto: Connection) -> None:
    front = "---\ntitle: Pay: new\n{}: [hr]\n---\n\n{}"
    put_all(settings, {"a.md": front.format("acl", note(1)), "b.md": front.format("team", note(2))})
    ingest(settings)
    assert names(auto) == ["b.md"]
    (fault,) = open_faults(auto)
    assert fault == "the front matter names readers in acl and cannot be read; correct it"


def test_readers_that_are_named_twice_are_rejected(settings: Settings, auto: Connection) -> None:
    twice = line("twice", note(1), acl=["alice"], metadata={"ACL": ["bob"]})
    put_all(settings, {"a.jsonl": f"{twice}\n{line('null', note(2), acl=['alice'], metadata={'Acl': None})}"})
    ingest(settings)
    assert acls(auto) == {"null": ["alice"]}
    assert open_faults(auto) == ["the metadata name readers 2 times, under acl in different case; keep one"]


@pytest.mark.parametrize("mark", ["---", "+++"])
def test_front_matter_without_an_end_is_not_shown_to_everybody(settings: Settings, auto: Connection, mark: str) -> None:
    front = mark + "\ntitle: Pay\n{}: [hr]\n\n{}"
    put_all(settings, {"a.md": front.format("acl", note(1)), "b.md": front.format("team", note(2))})
    ingest(settings)
    assert names(auto) == ["b.md"]
    (fault,) = open_faults(auto)
    assert f"names readers in acl and has no line {mark} at its end" in fault


def test_blank_lines_above_front_matter_hide_no_readers(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.md": f"\n \r\n---\ntitle: Pay\nacl: [hr]\n---\n\n{note(1)}", "b.md": f"    {note(2)}"})
    ingest(settings)
    assert acls(auto) == {"a.md": ["hr"], "b.md": None}
    assert column(auto, "SELECT title FROM heal.document ORDER BY external_id") == ["Pay", "b"]


def test_other_readers_alone_keep_chunks_and_tell_clients(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.jsonl": "\n".join([line("a", note(1)), line("b", note(2), acl=["alice"])])})
    ingest(settings)
    before = chunks(auto)
    put_all(settings, {"a.jsonl": "\n".join([line("a", note(1), acl=["bob"]), line("b", note(2))])})
    assert "documents  0 new, 0 changed, 0 deleted, 2 with other readers, 0 records" in make_plan(settings).lines()[0]
    made = ingest(settings)
    assert made.note == "2 documents: 0 new, 0 changed, 0 deleted, 2 with other readers, 0 rejected"
    assert (made.counts["chunks_added"], made.counts["chunks_superseded"]) == (0, 0)
    assert acls(auto) == {"a": ["bob"], "b": None}
    assert chunks(auto) == before
    assert ingest(settings).note == "2 documents: 0 new, 0 changed, 0 deleted, 0 rejected"


def test_copies_for_other_readers_are_no_duplicates(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.jsonl": "\n".join([line("a", note(1), acl=["x"]), line("b", note(1), acl=["x"])])})
    ingest(settings)
    duplicates = "SELECT external_id FROM heal.document WHERE duplicate_of IS NOT NULL"
    assert len(column(auto, duplicates)) == 1
    put_all(settings, {"a.jsonl": "\n".join([line("a", note(1), acl=["x"]), line("b", note(1), acl=["y"])])})
    made = ingest(settings)
    assert column(auto, duplicates) == []
    assert (made.counts["chunks_added"], made.counts["chunks_superseded"]) == (1, 0)
    put_all(settings, {"a.jsonl": "\n".join([line("a", note(1), acl=["y"]), line("b", note(1), acl=["y"])])})
    ingest(settings)
    assert len(column(auto, duplicates)) == 1


def test_an_old_text_is_not_served_to_new_readers(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.jsonl": "\n".join([line("a", note(1) + "secret"), line("b", note(2))])})
    ingest(settings)
    put_all(settings, {"a.jsonl": "\n".join([line("a", note(1), acl=["x"]), line("b", note(3))])})
    ingest(settings)
    replaced = column(auto, "SELECT text FROM heal.chunk WHERE superseded_at IS NOT NULL")
    assert [text.strip() for text in replaced] == [note(2).strip()]


def test_a_renamed_file_takes_the_readers_that_it_has_now(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {"a.jsonl": line("a", note(1), acl=["x"]), "b.jsonl": line("copy", note(1), acl=["x"])})
    ingest(settings)
    (inbox / "a.jsonl").unlink()
    put_all(settings, {"c.jsonl": line("c", note(1), acl=["y"])})
    ingest(settings)
    assert acls(auto) == {"c": ["y"], "copy": ["x"]}
    owners = column(auto, "SELECT d.external_id FROM heal.chunk c JOIN heal.document d USING (document_id) ORDER BY 1")
    assert owners == ["c", "copy"]


def test_the_rule_of_a_source_is_for_documents_that_name_no_readers(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.jsonl": "\n".join([line("a", note(1)), line("b", note(2), Acl=["alice"])])})
    opened = open_source(source(settings), s3_endpoint_url=None)
    context = Context(
        settings, Manifest(run_id="r"), auto, artifact_store(settings), silent, 0, 1, logging.getLogger("test")
    )
    for rule in (["staff"], [], None):
        ruled = replace(opened, rule=Rule(acl=None if rule is None else tuple(rule)))
        reader = SourceReader(context, ruled, lambda _, body: [("", body)], again=False)
        with auto.transaction():
            reader.find()
            changes = reader.read()
            reader.settle()
        assert acls(auto) == {"a": rule, "b": ["alice"]}
        assert changes.new == 2 or (changes.reopened, changes.chunks_added) == (1, 0)
