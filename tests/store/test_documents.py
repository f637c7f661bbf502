from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg import sql

from heal_tasks.core.ids import chunk_id, document_id, sha256_hex
from heal_tasks.core.text import title_line
from heal_tasks.core.types import Record
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.chunks import live_chunks, purge_superseded
from heal_tasks.store.documents.documents import Changes, DocumentRepository
from heal_tasks.store.documents.source_files import FileState, SourceFiles, State

SOURCE = "file:inbox"


def paragraphs(title: str, body: str) -> list[tuple[str, str]]:
    """One chunk per bar-separated part, under the heading before its colon, if it has one."""
    del title
    parts = [part.rpartition(":") for part in body.split("|") if part]
    return [(heading, text) for heading, _, text in parts]


def record(name: str, body: str, title: str = "T", path: str = "a.jsonl", **metadata: object) -> Record:
    return Record(name, title, body, metadata, path)


class Documents(DocumentRepository):
    """The repository with the tests' source and chunker."""

    def apply(self, records: Sequence[Record]) -> Changes:
        return self.apply_records(SOURCE, records, paragraphs)

    def remove(self, ids: Sequence[int]) -> Changes:
        return self.delete(ids)


@pytest.fixture
def documents(auto: Connection) -> Documents:
    return Documents(auto)


def texts(documents: Documents) -> dict[str, list[str]]:
    """Live texts by external id, in order, read without the repository's own queries."""
    rows = documents._conn.execute(
        "SELECT d.external_id, array_agg(c.text ORDER BY c.ordinal) FROM heal.chunk c "
        "JOIN heal.document d USING (document_id) WHERE superseded_at IS NULL GROUP BY 1"
    )
    return dict(rows.fetchall())


def superseded(documents: Documents) -> set[str]:
    return {row[0] for row in documents._conn.execute("SELECT text FROM heal.chunk WHERE superseded_at IS NOT NULL")}


def doc(name: str) -> int:
    return document_id(SOURCE, name)


def canonical(documents: Documents) -> set[int]:
    rows = documents._conn.execute(
        "SELECT document_id FROM heal.document WHERE deleted_at IS NULL AND duplicate_of IS NULL"
    )
    return {document for (document,) in rows}


def test_new_documents_get_chunks_with_deterministic_ids(documents: Documents) -> None:
    changes = documents.apply([record("a", "x|y", lang="en"), record("b", "z")])
    assert changes == Changes(new=2, chunks_added=3)
    chunks = list(live_chunks(documents._conn))
    assert [chunk.chunk_id for chunk in chunks] == sorted(chunk.chunk_id for chunk in chunks)
    second = next(chunk for chunk in chunks if chunk.text == "y")
    assert second.content_hash == sha256_hex("T", "y")
    assert second.chunk_id == chunk_id(doc("a"), 1, second.content_hash)
    assert canonical(documents) == {doc("a"), doc("b")}


def test_ids_of_chunks_are_the_same_in_sql_and_python(auto: Connection) -> None:
    parts = [(0, 0, ""), (7642741229340463075, 12, sha256_hex("T", "é")), (2**63 - 1, 2**31 - 1, "ü\u20ac|")]
    for document, ordinal, content_hash in parts:
        row = auto.execute(
            "SELECT heal.chunk_id(%s::bigint, %s::int, %s::text)", (document, ordinal, content_hash)
        ).fetchone()
        assert row == (chunk_id(document, ordinal, content_hash),)


def test_the_same_again_changes_nothing(documents: Documents) -> None:
    documents.apply([record("a", "x|y")])
    before = documents._conn.execute("SELECT * FROM heal.document").fetchall()
    assert documents.apply([record("a", "x|y")]) == Changes()
    assert documents._conn.execute("SELECT * FROM heal.document").fetchall() == before


def test_new_metadata_is_stored_but_is_no_change(documents: Documents) -> None:
    documents.apply([record("a", "x", year=2023)])
    assert documents.apply([record("a", "x", path="b.jsonl", year=2024)]) == Changes()
    row = documents._conn.execute("SELECT path, metadata, changed_at = created_at FROM heal.document").fetchone()
    assert row == ("b.jsonl", {"year": 2024}, True)


def test_a_changed_document_keeps_texts_that_are_still_there(documents: Documents) -> None:
    documents.apply([record("a", "x|y|z")])
    ids = {chunk.text: chunk.chunk_id for chunk in live_chunks(documents._conn)}
    changes = documents.apply([record("a", "new|x|z")])
    assert changes == Changes(changed=1, chunks_added=1, chunks_superseded=1)
    after = {chunk.text: chunk.chunk_id for chunk in live_chunks(documents._conn)}
    assert after["x"] == ids["x"]
    assert after["z"] == ids["z"]
    assert texts(documents) == {"a": ["new", "x", "z"]}
    assert superseded(documents) == {"y"}


def test_a_text_that_comes_back_is_served_again(documents: Documents) -> None:
    documents.apply([record("a", "x|y")])
    documents.apply([record("a", "x")])
    assert superseded(documents) == {"y"}
    assert documents.apply([record("a", "x|y")]).chunks_added == 1
    assert superseded(documents) == set()
    assert texts(documents) == {"a": ["x", "y"]}


def test_a_new_title_is_a_new_vector(documents: Documents) -> None:
    documents.apply([record("a", "x", title="old")])
    changes = documents.apply([record("a", "x", title="new")])
    assert (changes.chunks_added, changes.chunks_superseded) == (1, 1)


def test_a_chunk_has_its_headings_in_its_title_line_and_another_one_is_a_new_vector(documents: Documents) -> None:
    documents.apply([record("a", "Oil › Use:x|y", title="Guide")])
    chunks = {chunk.text: chunk for chunk in live_chunks(documents._conn)}
    assert {text: chunk.title for text, chunk in chunks.items()} == {"x": "Guide › Oil › Use", "y": "Guide"}
    assert chunks["x"].content_hash == sha256_hex("Guide › Oil › Use", "x")
    assert documents.apply([record("a", "Oil › Care:x|y", title="Guide")]).chunks_added == 1
    found = documents._conn.execute("SELECT text FROM heal.chunk WHERE words @@ 'oil & care'::tsquery").fetchall()
    assert found == [("x",)]
    documents.apply([record("b", "Oil › Care:x|y", title="Guide")])
    documents.remove([doc("a")])  # its duplicate takes over its chunks
    assert {chunk.title for chunk in live_chunks(documents._conn)} == {"Guide › Oil › Care", "Guide"}


def test_documents_that_are_read_again_are_chunked_again(documents: Documents) -> None:
    documents.apply([record("a", "x|y|z"), record("b", "other")])
    before = {chunk.text: chunk.chunk_id for chunk in live_chunks(documents._conn)}

    def longer(title: str, body: str) -> list[tuple[str, str]]:
        del title
        return [("", "x|y"), ("", "z")] if "|" in body else [("", body)]

    assert documents.apply_records(SOURCE, [record("a", "x|y|z"), record("b", "other")], longer) == Changes()
    changes = documents.apply_records(SOURCE, [record("a", "x|y|z"), record("b", "other")], longer, again=True)
    assert changes == Changes(chunks_added=1, chunks_superseded=2)
    after = {chunk.text: chunk.chunk_id for chunk in live_chunks(documents._conn)}
    assert (after["z"], after["other"]) == (before["z"], before["other"])


@pytest.mark.parametrize(("title", "heading"), [("T", ""), ("", "H"), ("T", "H › h"), ("", ""), ("long " * 40, "H")])
def test_title_lines_are_the_same_in_sql_and_python(auto: Connection, title: str, heading: str) -> None:
    row = auto.execute("SELECT heal.title_line(%s, %s)", (title, heading)).fetchone()
    assert row == (title_line(title, heading),)


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(versions=st.lists(st.lists(st.sampled_from("abc"), max_size=5), min_size=1, max_size=5))
def test_any_history_ends_in_the_last_version(module_database_url: str, versions: Sequence[Sequence[str]]) -> None:
    with connect(module_database_url, autocommit=True) as conn:
        conn.execute("TRUNCATE heal.document CASCADE")
        documents = Documents(conn)
        seen: set[str] = set()
        for version in versions:
            documents.apply([record("a", "|".join(version))])
            seen |= set(version)
            assert texts(documents).get("a", []) == list(version)
            assert superseded(documents) >= seen - set(version)
        purge_superseded(documents._conn)
        assert superseded(documents) == set()
        assert texts(documents).get("a", []) == list(versions[-1])


def test_a_duplicate_has_no_chunks_until_it_has_to_stand_in(documents: Documents) -> None:
    documents.apply([record("a", "x|y")])
    changes = documents.apply([record("b", "x|y"), record("c", "x|y")])
    assert (changes.new, changes.duplicates, changes.chunks_added) == (2, 2, 0)
    assert texts(documents) == {"a": ["x", "y"]}
    heir, other = sorted(["b", "c"], key=doc)
    assert documents.remove([doc("a")]) == Changes(deleted=1, chunks_added=2)
    assert texts(documents) == {heir: ["x", "y"]}
    changes = documents.apply([record(heir, "else")])
    assert (changes.changed, changes.chunks_added, changes.chunks_superseded) == (1, 3, 2)
    assert texts(documents) == {heir: ["else"], other: ["x", "y"]}
    assert canonical(documents) == {doc("b"), doc("c")}


def test_a_document_that_becomes_a_duplicate_is_served_until_purged(documents: Documents) -> None:
    documents.apply([record("a", "x")])
    documents.apply([record("b", "y")])
    changes = documents.apply([record("b", "x")])
    assert (changes.changed, changes.duplicates, changes.chunks_added, changes.chunks_superseded) == (1, 1, 0, 1)
    assert texts(documents) == {"a": ["x"]}
    assert purge_superseded(documents._conn) == 1
    assert documents.counts() == {"documents": 2, "duplicates": 1, "deleted": 0, "chunks": 1, "superseded": 0}


def test_duplicates_within_one_batch(documents: Documents) -> None:
    changes = documents.apply([record(name, "same") for name in "abcd"])
    assert (changes.new, changes.duplicates, changes.chunks_added) == (4, 3, 1)
    assert texts(documents) == {min("abcd", key=doc): ["same"]}


def test_a_deleted_document_leaves_nothing_but_its_row(documents: Documents) -> None:
    documents.apply([record("a", "x", title="Secret", owner="me"), record("b", "y")])
    assert documents.remove([doc("a"), 12345]) == Changes(deleted=1)
    assert documents.remove([doc("a")]) == Changes()
    row = documents._conn.execute(
        "SELECT title, body, metadata, content_hash, deleted_at IS NOT NULL FROM heal.document WHERE document_id = %s",
        (doc("a"),),
    ).fetchone()
    assert row == ("", "", {}, "", True)
    assert texts(documents) == {"b": ["y"]}
    assert documents.live_count(SOURCE) == 1


def test_a_document_that_comes_back_is_new_and_the_youngest(documents: Documents) -> None:
    documents.apply([record("a", "x")])
    documents.apply([record("b", "x")])
    documents.remove([doc("a")])
    changes = documents.apply([record("a", "x")])
    assert (changes.new, changes.duplicates) == (1, 1)
    assert texts(documents) == {"b": ["x"]}


def test_text_that_postgres_cannot_hold_is_replaced(documents: Documents) -> None:
    bad = "a\x00b\ud800c"
    documents.apply([record("a", bad, title=bad, note=bad, size=float("nan"))])
    row = documents._conn.execute("SELECT title, body, metadata FROM heal.document").fetchone()
    assert row == ("a\ufffdb\ufffdc", "a\ufffdb\ufffdc", {"note": "a\ufffdb\ufffdc", "size": None})
    assert documents.apply([record("a", bad, title=bad)]) == Changes()


def test_files_and_what_they_held(documents: Documents) -> None:
    files = SourceFiles(documents._conn)
    documents.apply([record("a", "x"), record("b", "y"), record("c", "z", path="c.txt")])
    first, second = FileState("a.jsonl", "1", "partly", "why", "limits"), FileState("c.txt", "1", "read")
    files.record(SOURCE, [first, second])
    assert files.known(SOURCE) == {"a.jsonl": first, "c.txt": second}
    assert files.known("other") == {}
    assert files.documents_of(SOURCE, ["a.jsonl"]) == {"a": (doc("a"), "a.jsonl"), "b": (doc("b"), "a.jsonl")}
    assert files.documents_of("other", ["a.jsonl"]) == {}
    assert files.sizes(SOURCE, ["a.jsonl", "c.txt", "d"]) == {"a.jsonl": 2, "c.txt": 1}
    documents.remove([doc("a")])
    assert files.documents_of(SOURCE, ["a.jsonl"]) == {"b": (doc("b"), "a.jsonl")}
    changed = FileState("a.jsonl", "2", "read")
    files.record(SOURCE, [changed])
    files.forget(SOURCE, ["c.txt"])
    assert files.known(SOURCE) == {"a.jsonl": changed}


@pytest.mark.parametrize(
    ("state", "fingerprint", "decided_by", "settled"),
    [
        ("read", "1", "new limits", True), ("read", "2", "limits", False),
        ("partly", "1", "limits", True), ("partly", "1", "new limits", False),
        ("refused", "1", "limits", True), ("refused", "1", "new limits", False), ("refused", "2", "limits", False),
        ("failed", "1", "limits", False), ("skipped", "1", "limits", False),
    ],
)  # fmt: skip
def test_only_a_result_settles_a_file(state: State, fingerprint: str, decided_by: str, settled: bool) -> None:
    assert FileState("a", "1", state, "why", "limits").is_settled(fingerprint, decided_by) is settled


def test_shards_divide_the_chunks(documents: Documents, auto: Connection) -> None:
    documents.apply([record(f"d{number}", f"text {number}") for number in range(50)])

    def ids(shard: int, shards: int) -> list[int]:
        part = sql.SQL("c.chunk_id %% %s = %s")
        return [chunk.chunk_id for chunk in live_chunks(auto, part, (shards, shard), page=7)]

    everything = ids(0, 1)
    assert everything == [chunk.chunk_id for chunk in live_chunks(documents._conn)]
    parts = [ids(shard, 3) for shard in range(3)]
    assert len(everything) == 50
    assert sorted(key for part in parts for key in part) == everything
    assert all(part for part in parts)


def test_everything_is_undone_with_the_callers_transaction(documents: Documents) -> None:
    class UndoneError(Exception):
        pass

    with pytest.raises(UndoneError), documents._conn.transaction():
        documents.apply([record("a", "x")])
        raise UndoneError
    assert documents.counts()["documents"] == 0
