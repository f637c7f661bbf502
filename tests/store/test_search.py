from collections.abc import Iterator

import numpy as np
import psycopg
import pytest

from heal_tasks.core.errors import InputError, StoreError
from heal_tasks.core.ids import document_id
from heal_tasks.store.db import connect
from heal_tasks.store.documents.topics import Labels, TopicRepository, TopicRow
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.search import NotSearchable, search, similar
from tests.store.sample_store import DIMS, SOURCE, SampleStore, encode


@pytest.fixture(scope="module")
def filled(module_database_url: str) -> Iterator[SampleStore]:
    """One database for the tests that only read."""
    with connect(module_database_url, autocommit=True) as conn:
        made = SampleStore(conn)
        fill(made)
        yield made


@pytest.fixture(scope="module")
def live(filled: SampleStore) -> Generation:
    return filled.generations.get(1)


def fill(store: SampleStore) -> None:
    """200 documents, alternately of leaf 0, 1 and 2; topic 20 holds leaves 1 and 2."""
    store.load_many(200)
    ids = [document_id(SOURCE, f"d{number}") for number in range(200)]
    leaves = np.arange(200, dtype=np.int32) % 3
    flat = np.zeros(200, dtype=np.float32)
    tree = [
        TopicRow(1, None, 0, 0, 2, ["all"], 2, None, 200),
        TopicRow(10, 1, 1, 0, 0, ["zero"], 0, None, 67),
        TopicRow(20, 1, 1, 1, 2, ["some"], 2, None, 133),
        TopicRow(21, 20, 2, 1, 1, ["one"], 0, None, 67),
        TopicRow(22, 20, 2, 2, 2, ["two"], 0, None, 66),
    ]
    paths = [[[10], [20, 21], [20, 22]][leaf] for leaf in leaves]
    run = TopicRepository(store.conn).insert_run(
        fingerprint="f", uri="/t", churn=None, mean_residual=0.1, topics=tree,
        labels=Labels(np.array(ids, dtype=np.int64), leaves, paths, flat, flat),
    )  # fmt: skip
    store.publish(store.generation(topic_run_id=run))


def brute_force(query: np.ndarray, allowed: range | list[int], k: int) -> list[str]:
    texts = [f"text {number}" for number in allowed]
    distances = 1 - encode(texts) @ query
    return [texts[row] for row in np.argsort(distances)[:k]]


def test_the_nearest_come_first_as_an_exact_scan_finds_them(filled: SampleStore, live: Generation) -> None:
    query = encode(["query"])[0]
    hits = search(filled.conn, query, live.generation_id, k=10)
    assert [hit.text for hit in hits] == brute_force(query, range(200), 10)
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    assert hits[0].title == "T"
    assert hits[0].document_id == document_id(SOURCE, hits[0].text.replace("text ", "d"))


@pytest.mark.parametrize(("topic", "leaves"), [(1, {0, 1, 2}), (10, {0}), (20, {1, 2}), (21, {1}), (22, {2})])
def test_a_topic_is_its_whole_subtree_and_nothing_else(
    filled: SampleStore, live: Generation, topic: int, leaves: set[int]
) -> None:
    query = encode(["query"])[0]
    allowed = [number for number in range(200) if number % 3 in leaves]
    hits = search(filled.conn, query, live.generation_id, k=10, topic=topic)
    assert [hit.text for hit in hits] == brute_force(query, allowed, 10)


def test_lists_are_vectors_too_and_k_is_an_upper_bound(filled: SampleStore, live: Generation) -> None:
    query = encode(["query"])[0]
    assert len(search(filled.conn, query.tolist(), live.generation_id, k=1000)) == 200


def test_similar_documents_need_no_encoder(filled: SampleStore, live: Generation) -> None:
    hits = similar(filled.conn, document_id(SOURCE, "d5"), k=5)
    expected = brute_force(encode(["text 5"])[0], range(200), 6)
    assert expected[0] == "text 5"
    assert [hit.text for hit in hits] == expected[1:]
    within = similar(filled.conn, document_id(SOURCE, "d5"), k=5, topic=10)
    assert [hit.text for hit in within] == brute_force(encode(["text 5"])[0], range(0, 200, 3), 5)


def test_a_duplicate_is_as_similar_as_its_original(filled: SampleStore, live: Generation) -> None:
    filled.load(copy="text 5")
    assert similar(filled.conn, document_id(SOURCE, "copy"), k=5) == similar(
        filled.conn, document_id(SOURCE, "d5"), k=5
    )


def test_a_wrong_dimension_is_an_error_with_the_cure(filled: SampleStore, live: Generation) -> None:
    message = rf"the query vector has 3 dimensions, generation 1 has {DIMS} \(HEA02\)\. Encode the query with /models/m"
    with pytest.raises(StoreError, match=message):
        search(filled.conn, np.ones(3, np.float32), live.generation_id)


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_has_limits(filled: SampleStore, live: Generation, k: int) -> None:
    with pytest.raises(InputError, match=rf"k must be between 1 and 1000, got {k} \(HEA03\)"):
        search(filled.conn, encode(["q"])[0], live.generation_id, k=k)


def test_an_unknown_topic_or_document_is_an_error_with_the_cure(filled: SampleStore, live: Generation) -> None:
    with pytest.raises(InputError, match=r"generation 1 has no topic 77 \(HEA03\)\. SELECT topic_id, terms FROM"):
        search(filled.conn, encode(["q"])[0], live.generation_id, topic=77)
    with pytest.raises(InputError, match=r"document 77 has no vector in generation 1 \(HEA03\)"):
        similar(filled.conn, 77)


def test_without_an_active_generation(store: SampleStore) -> None:
    with pytest.raises(NotSearchable, match=r"generation 5 is not searchable \(unknown\) \(HEA01\)\. No generation is"):
        search(store.conn, encode(["q"])[0], 5)
    with pytest.raises(NotSearchable, match="generation null is not searchable"):
        similar(store.conn, 1)


def test_other_database_errors_keep_their_name(store: SampleStore) -> None:
    store.conn.execute("DROP FUNCTION heal.search")
    with pytest.raises(psycopg.errors.UndefinedFunction):
        search(store.conn, encode(["q"])[0], 1)


def test_a_deleted_document_is_never_found(store: SampleStore) -> None:
    fill(store)
    live = store.generations.get(1)
    query = encode(["text 5"])[0]
    assert search(store.conn, query, live.generation_id, k=1)[0].text == "text 5"
    store.delete("d5")
    assert "text 5" not in {hit.text for hit in search(store.conn, query, live.generation_id, k=200)}


def test_lineage_leads_from_a_vector_to_its_topics_and_model(filled: SampleStore, live: Generation) -> None:
    row = filled.conn.execute(
        "SELECT external_id, topic_path, generation_id, model_uri, questions FROM heal.lineage WHERE document_id = %s",
        (document_id(SOURCE, "d4"),),
    ).fetchone()
    assert row == ("d4", [20, 21], live.generation_id, "/models/m", 0)


def test_the_search_uses_the_index_and_a_topic_the_b_tree(filled: SampleStore, live: Generation) -> None:
    query = encode(["query"])[0]
    with filled.conn.transaction():
        filled.conn.execute("SET LOCAL enable_seqscan = off")
        plan = filled.conn.execute(
            "EXPLAIN SELECT chunk_id FROM heal.vec_g000001 ORDER BY embedding <=> %s LIMIT 5", (query,)
        ).fetchall()
    assert any("vec_g000001_hnsw" in row[0] for row in plan)
    names = {row[0] for row in filled.conn.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'vec_g000001'")}
    assert names == {f"vec_g000001_{suffix}" for suffix in ("pkey", "leaf", "document", "hnsw")}
