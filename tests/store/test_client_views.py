"""Views for clients of pgvector: the index is used, duplicates are rows, and two models are never mixed."""

from dataclasses import replace

import psycopg
import pytest

from heal_tasks.core.types import Record
from heal_tasks.store.adopted.adopted import Adopted, AdoptedRepository
from heal_tasks.store.db import Connection
from tests.store.sample_store import DIMS, SampleStore, chunker, encode

SOURCE = "table:public.docs"
ADOPTED = Adopted(
    SOURCE, "public", "docs", "id", "body", "v", "", [], "", "", "", "", "/models/m", "m", DIMS, 1, "not checked"
)


@pytest.fixture
def store(auto: Connection) -> SampleStore:
    """A file of two chunks, and an adopted table with 300 rows of which two are equal; live, with an index."""
    made = SampleStore(auto)
    made.load(guide="first|second")
    rows = [Record(f"row {number}", "", f"text {number or 1}", {"page": number}) for number in range(300)]
    made.documents.apply_records(SOURCE, rows, chunker)
    AdoptedRepository(auto).save(ADOPTED)
    made.publish(made.generation())
    return made


@pytest.mark.parametrize(
    "query",
    [
        'SELECT "langchain_id", "content", "embedding", cosine_distance("embedding", {0}) AS distance '
        'FROM "heal"."served_as_langchain" ORDER BY "embedding" <=> {0} LIMIT 5',
        "SELECT id, node_id, text, metadata_, embedding <=> {0} AS distance FROM heal.data_served_as_llama_index "
        "ORDER BY distance ASC LIMIT 5",
    ],
    ids=["langchain", "llama-index"],
)
def test_a_clients_query_uses_the_index_without_statistics_of_documents(store: SampleStore, query: str) -> None:
    store.conn.execute("SET enable_seqscan = off")  # a plan for 300 rows is one for 300,000
    vector = f"'{encode(['text 7'])[0].tolist()}'"
    plan = "\n".join(row for (row,) in store.conn.execute(f"EXPLAIN {query.format(vector)}".encode()).fetchall())
    assert "Index Scan using vec_g000001_hnsw" in plan
    assert "Sort" not in plan


def test_rows_have_their_own_ids_and_duplicates_are_rows(store: SampleStore) -> None:
    rows = store.conn.execute(
        "SELECT langchain_id, content, langchain_metadata FROM heal.served_as_langchain WHERE source = %s", (SOURCE,)
    ).fetchall()
    assert sorted(rows) == sorted((f"row {n}", f"text {n or 1}", {"page": n}) for n in range(300))
    others = store.conn.execute(
        "SELECT langchain_id, content FROM heal.served_as_langchain WHERE source <> %s", (SOURCE,)
    ).fetchall()
    chunks = store.conn.execute("SELECT chunk_id::text, text FROM heal.chunk WHERE text IN ('first', 'second')")
    assert sorted(others) == sorted(chunks.fetchall())
    nodes = store.conn.execute("SELECT count(DISTINCT id), count(*) FROM heal.data_served_as_llama_index").fetchall()
    assert nodes == [(302, 302)]


def test_vectors_of_another_model_are_refused_unless_clients_ask_by_the_service(store: SampleStore) -> None:
    store.publish(store.generation("trained"))
    with pytest.raises(psycopg.Error, match="generation 2 has vectors of /models/trained, but the clients of") as error:
        store.conn.execute("SELECT langchain_id FROM heal.served_as_langchain LIMIT 1")
    assert error.value.sqlstate == "HEA01"
    AdoptedRepository(store.conn).save(replace(ADOPTED, own_queries=False))
    assert store.conn.execute("SELECT count(*) FROM heal.served_as_langchain").fetchall() == [(302,)]
    AdoptedRepository(store.conn).save(ADOPTED)
    store.generations.activate(1)
    assert store.conn.execute("SELECT count(*) FROM heal.served_as_langchain").fetchall() == [(302,)]
