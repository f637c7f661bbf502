"""Equal content that is gone under one name and has arrived under another is a move: nothing is lost or paid again."""

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.ids import document_id
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from tests.field.inbox import chunks, column, ingest, judge, judged, names, note, put_all, source

CAFE = "café"  # é as one character


@pytest.mark.parametrize(
    ("old", "new"),
    [("n3.md", "n9.md"), ("n3.md", "sub/folder/n3.md"), ("n3.md", "other.markdown.md"), ("n3.md", "N3.MD")],
)
def test_a_renamed_file_keeps_everything(settings: Settings, auto: Connection, old: str, new: str) -> None:
    inbox = put_all(settings, {f"n{number}.md": note(number) for number in range(6)})
    ingest(settings)
    judge(settings, auto, ("when does line 3 need oil", "n3.md"), ("line 4", "n4.md"))
    before, key = chunks(auto), document_id(source(settings), old)
    (inbox / new).parent.mkdir(parents=True, exist_ok=True)
    (inbox / old).rename(inbox / new)
    made = ingest(settings)
    assert made.note == "6 documents: 0 new, 0 changed, 0 deleted, 1 moved, 0 rejected"
    assert {name: made.counts[name] for name in ("chunks_added", "chunks_superseded", "duplicates")} == {
        "chunks_added": 0, "chunks_superseded": 0, "duplicates": 0,
    }  # fmt: skip
    assert chunks(auto) == before
    assert judged(auto) == [("line 4", "n4.md"), ("when does line 3 need oil", new)]
    row = auto.execute("SELECT external_id, path FROM heal.document WHERE document_id = %s", (key,)).fetchone()
    assert row == (new, new)
    again = ingest(settings)
    assert again.note == "6 documents: 0 new, 0 changed, 0 deleted, 0 rejected"


def test_judgments_and_later_runs_find_a_renamed_document_by_its_new_name(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {f"n{number}.md": note(number) for number in range(4)})
    ingest(settings)
    (inbox / "n3.md").rename(inbox / "n9.md")
    ingest(settings)
    judge(settings, auto, ("line 3", "n9.md"))
    assert judged(auto) == [("line 3", "n9.md")]
    put_all(settings, {"n9.md": note(3) + "\nMore.\n"})
    assert ingest(settings).refs["changed"] == 1
    put_all(settings, {"n3.md": note(77)})  # the old name comes back with another text
    assert ingest(settings).refs["new"] == 1
    assert names(auto) == ["n0.md", "n1.md", "n2.md", "n3.md", "n9.md"]


def test_renumbered_files_keep_what_people_said(settings: Settings, auto: Connection) -> None:
    """A name that is there before and after counts as changed, so nothing moves, and nothing is lost."""
    inbox = put_all(settings, {f"n{number}.md": note(number) for number in range(6)})
    ingest(settings)
    judge(settings, auto, *((f"line {number}", f"n{number}.md") for number in range(6)))
    for number in (5, 4, 3):
        (inbox / f"n{number}.md").rename(inbox / f"n{number + 1}.md")
    ingest(settings)
    assert names(auto) == ["n0.md", "n1.md", "n2.md", "n4.md", "n5.md", "n6.md"]
    assert [query for query, _ in judged(auto)] == [f"line {number}" for number in range(6)]


def test_back_and_forth(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {f"n{number}.md": note(number) for number in range(4)})
    ingest(settings)
    before = chunks(auto)
    for old, new in [("n3.md", "a.md"), ("a.md", "b.md"), ("b.md", "n3.md"), ("n3.md", "a.md"), ("a.md", "n3.md")]:
        (inbox / old).rename(inbox / new)
        assert ingest(settings).counts["moved"] == 1
    assert chunks(auto) == before
    assert names(auto) == ["n0.md", "n1.md", "n2.md", "n3.md"]


def test_a_renamed_folder_moves_all_its_documents_and_is_no_mass_deletion(settings: Settings, auto: Connection) -> None:
    strict = settings.model_copy(update={"max_deleted_share": 0.0})
    inbox = put_all(settings, {f"old/n{number}.md": note(number) for number in range(5)})
    ingest(strict)
    before = chunks(auto)
    (inbox / "old").rename(inbox / "new")
    made = ingest(strict)
    assert (made.refs["new"], made.counts["moved"], made.refs["deleted"]) == (0, 5, 0)
    assert chunks(auto) == before
    titles = auto.execute("SELECT external_id, title FROM heal.document WHERE deleted_at IS NULL ORDER BY 1").fetchall()
    assert titles == [(f"new/n{number}.md", f"Note {number}") for number in range(5)]


def test_a_record_whose_id_changes_in_a_table(settings: Settings, auto: Connection) -> None:
    def rows(*ids: str) -> str:
        texts = [{"id": name, "title": "T", "text": f"text {place}", "row": name} for place, name in enumerate(ids)]
        return "".join(json.dumps(item) + "\n" for item in texts)

    put_all(settings, {"a.jsonl": rows("x", "y", "z")})
    ingest(settings)
    judge(settings, auto, ("about y", "y"))
    put_all(settings, {"a.jsonl": rows("x", "renamed", "z")})
    assert ingest(settings).counts["moved"] == 1
    assert judged(auto) == [("about y", "renamed")]
    metadata = auto.execute("SELECT metadata FROM heal.document WHERE external_id = 'renamed'").fetchone()
    assert metadata == ({"row": "renamed"},)


def test_a_document_with_another_text_and_another_name_is_no_move(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {"a.md": note(1), "b.md": note(2), "c.md": note(3)})
    ingest(settings)
    judge(settings, auto, ("one", "a.md"))
    (inbox / "a.md").unlink()
    put_all(settings, {"d.md": note(1) + "More."})
    made = ingest(settings)
    assert (made.refs["new"], made.refs["deleted"], made.counts["moved"]) == (1, 1, 0)
    assert judged(auto) == []


def test_a_document_moves_to_another_source(settings: Settings, auto: Connection, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    roots = (f"file:{tmp_path}",)
    both = load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(), source_roots=roots,
        sources=(f"file:{tmp_path / 'one'}", f"file:{tmp_path / 'two'}"),
    )  # fmt: skip
    for number in range(4):
        (tmp_path / "one" / f"{number}.md").write_text(note(number))
    ingest(both)
    judge(both, auto, ("line 2", "2.md"))
    before = chunks(auto)
    shutil.move(tmp_path / "one" / "2.md", tmp_path / "two" / "2.md")
    assert ingest(both).counts["moved"] == 1
    assert chunks(auto) == before
    assert judged(auto) == [("line 2", "2.md")]
    found = auto.execute(
        "SELECT source FROM heal.document WHERE external_id = '2.md' AND deleted_at IS NULL"
    ).fetchall()
    assert found == [(both.sources[1],)]


@pytest.mark.parametrize("moved", ["a.md", "b.md"])
def test_copies_of_one_text_stay_copies_when_one_moves(settings: Settings, auto: Connection, moved: str) -> None:
    put_all(settings, {"a.md": note(1), "other.md": note(2), "third.md": note(3)})
    ingest(settings)
    inbox = put_all(settings, {"b.md": note(1)})
    ingest(settings)
    judge(settings, auto, ("one", "a.md"), ("two", "b.md"))
    before = chunks(auto)
    (inbox / moved).rename(inbox / "z.md")
    assert ingest(settings).counts["moved"] == 1
    assert chunks(auto) == before
    assert [query for query, _ in judged(auto)] == ["one", "two"]
    assert names(auto) == sorted(["other.md", "third.md", "z.md", *({"a.md", "b.md"} - {moved})])
    assert DocumentRepository(auto).counts()["duplicates"] == 1


def test_two_equal_files_that_both_move(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {name: note(1) for name in ("a.md", "b.md")} | {"c.md": note(2), "d.md": note(3)})
    ingest(settings)
    before = chunks(auto)
    for old, new in (("a.md", "y.md"), ("b.md", "z.md")):
        (inbox / old).rename(inbox / new)
    assert ingest(settings).counts["moved"] == 2
    assert chunks(auto) == before
    assert names(auto) == ["c.md", "d.md", "y.md", "z.md"]


def test_a_title_that_is_the_file_name_changes_with_it_and_nothing_else_does(
    settings: Settings, auto: Connection
) -> None:
    inbox = put_all(settings, {f"{name}.txt": f"The text of {name}." for name in ("pump", "valve", "tank")})
    ingest(settings)
    judge(settings, auto, ("about pumps", "pump.txt"))
    auto.execute(
        "INSERT INTO heal.question "
        "(question_id, chunk_id, text, answer, evidence, kind, writer, model, prompt_hash, split) "
        "SELECT 1, c.chunk_id, 'q', 'a', 'e', 'question', 'llm', 'm', 'p', 'train' FROM heal.chunk c "
        "JOIN heal.document d USING (document_id) WHERE d.external_id = 'pump.txt'"
    )
    auto.execute(
        "INSERT INTO heal.chunk_asked (content_hash, prompt_hash, model, chunk_id, questions, dropped) "
        "SELECT c.content_hash, 'p', 'm', c.chunk_id, 1, 0 FROM heal.chunk c JOIN heal.question q USING (chunk_id) "
        "WHERE q.writer = 'llm'"
    )
    (inbox / "pump.txt").rename(inbox / "oil pump.txt")
    made = ingest(settings)
    assert (made.refs["new"], made.counts["moved"], made.refs["deleted"]) == (0, 1, 0)
    assert (made.counts["chunks_added"], made.counts["chunks_superseded"]) == (1, 1)
    assert judged(auto) == [("about pumps", "oil pump.txt"), ("q", "oil pump.txt")]
    asked = (
        "SELECT FROM heal.chunk_asked a JOIN heal.chunk c USING (chunk_id, content_hash) WHERE superseded_at IS NULL"
    )
    assert auto.execute(asked).rowcount == 1
    assert column(auto, "SELECT title FROM heal.document WHERE external_id = 'oil pump.txt'") == ["oil pump"]


@pytest.mark.parametrize("suffix", [".md", ".txt"])
def test_both_unicode_spellings_of_a_name_are_one_document(settings: Settings, auto: Connection, suffix: str) -> None:
    spelled = unicodedata.normalize("NFD", CAFE)
    inbox = put_all(settings, {f"{spelled}{suffix}": note(1), "b.md": note(2), "c.md": note(3)})
    ingest(settings)
    assert f"{CAFE}{suffix}" in names(auto)
    before = chunks(auto)
    (inbox / f"{spelled}{suffix}").rename(inbox / f"{CAFE}{suffix}")
    assert ingest(settings).note == "3 documents: 0 new, 0 changed, 0 deleted, 0 rejected"
    assert chunks(auto) == before


def test_rows_with_another_spelling_are_moved_to_the_stored_one(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    spelled = unicodedata.normalize("NFD", CAFE)
    put_all(settings, {"a.jsonl": json.dumps({"id": spelled, "text": "text"}), "b.md": note(2), "c.md": note(3)})
    with monkeypatch.context() as older:  # a version that stored names as they came
        older.setattr("heal_tasks.sources.records.natural_key", str)
        ingest(settings)
    (chunk,) = column(
        auto, "SELECT chunk_id FROM heal.chunk JOIN heal.document USING (document_id) WHERE path = 'a.jsonl'"
    )
    auto.execute(
        "INSERT INTO heal.question "
        "(question_id, chunk_id, text, answer, evidence, kind, writer, model, prompt_hash, split) "
        "VALUES (1, %s, 'query', '', '', 'question', 'human', '', '', 'train')",
        (chunk,),
    )
    auto.execute("UPDATE heal.source_file SET fingerprint = '' WHERE path = 'a.jsonl'")  # as the migration leaves it
    assert ingest(settings).counts["moved"] == 1
    assert judged(auto) == [("query", CAFE)]


def test_a_dry_run_undoes_a_move(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {f"n{number}.md": note(number) for number in range(4)})
    ingest(settings)
    rows: Any = auto.execute("SELECT * FROM heal.document ORDER BY document_id").fetchall()
    (inbox / "n3.md").rename(inbox / "n9.md")
    made = ingest(settings.model_copy(update={"dry_run": True}))
    assert "1 moved" in made.note
    assert auto.execute("SELECT * FROM heal.document ORDER BY document_id").fetchall() == rows
