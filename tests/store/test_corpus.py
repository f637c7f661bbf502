"""Reads of the whole corpus come in parts, and give what one query gives."""

from itertools import islice

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array

from heal_tasks.lexicon import search
from heal_tasks.lexicon.search import RARE_CHUNKS, Words
from heal_tasks.store import arrays, db
from heal_tasks.store.db import Connection, stream
from heal_tasks.store.documents.corpus import Corpus
from tests.store.sample_store import SampleStore

PATHS = {1: [3], 2: [3, 7, 9], 3: [4, 8]}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few rows, so that a small corpus has several."""
    monkeypatch.setattr(arrays, "_ROWS", 3)
    monkeypatch.setattr(db, "_STREAMED_ROWS", 2)


@pytest.mark.usefixtures("small_parts")
def test_all_chunks_with_their_labels(store: SampleStore) -> None:
    conn = store.conn
    store.load(**{f"d{number}": f"a{number}|b{number}|c{number}" for number in range(8)})
    conn.execute("UPDATE heal.document SET acl = '{alice}' WHERE external_id = 'd5'")
    conn.execute(
        "INSERT INTO heal.topic_run (topic_run_id, fingerprint, uri, documents, topics, leaves, depth, mean_residual) "
        "OVERRIDING SYSTEM VALUE VALUES (1, 'f', 'u', 8, 4, 3, 3, 0)"
    )
    for leaf, path in PATHS.items():
        conn.execute(
            "INSERT INTO heal.document_topic (topic_run_id, document_id, leaf, path, membership, residual, projected) "
            "SELECT 1, document_id, %s, %s, 1, 0, false FROM heal.document WHERE substr(external_id, 2)::int %% 4 = %s",
            (leaf, path, leaf),
        )
    rows = conn.execute(
        "SELECT c.chunk_id, c.document_id, t.leaf, d.acl IS NULL FROM heal.chunk c JOIN heal.document d "
        "USING (document_id) LEFT JOIN heal.document_topic t USING (document_id) ORDER BY 1"
    ).fetchall()
    found = Corpus(conn).chunks(1)
    assert len(rows) == 24
    assert found.chunk_ids.tolist() == [row[0] for row in rows]
    assert found.document_ids.tolist() == [row[1] for row in rows]
    assert found.leaves.tolist() == [-1 if row[2] is None else row[2] for row in rows]
    assert found.public.tolist() == [row[3] for row in rows]
    assert found.public.sum() == 21
    padded = {leaf: path + [-1] * (3 - len(path)) for leaf, path in PATHS.items()}
    assert found.paths.tolist() == [padded.get(row[2], [-1] * 3) for row in rows]
    assert found.leaves.dtype == np.int32
    texts = conn.execute("SELECT document_id, title || E'\\n' || body FROM heal.document ORDER BY 1").fetchall()
    assert Corpus(conn).texts() == ([key for key, _ in texts], [text for _, text in texts])


@pytest.mark.usefixtures("small_parts")
def test_the_hash_is_that_of_the_joined_documents(store: SampleStore) -> None:
    store.load(a="x", b="x", c="y", d="z", e="u", f="v")
    store.delete("c")
    ((wanted,),) = store.conn.execute(
        "SELECT encode(sha256(string_agg(document_id || ':' || content_hash, ',' ORDER BY document_id)::bytea), 'hex') "
        "FROM heal.document WHERE deleted_at IS NULL AND duplicate_of IS NULL"
    ).fetchall()
    assert Corpus(store.conn).hash() == wanted


@pytest.mark.usefixtures("small_parts")
def test_an_empty_corpus(store: SampleStore) -> None:
    found = Corpus(store.conn).chunks(None)
    assert found.chunk_ids.shape == (0,)
    assert found.paths.shape == (0, 1)
    assert Corpus(store.conn).questions().splits.shape == (0,)
    assert Corpus(store.conn).texts() == ([], [])
    assert Corpus(store.conn).hash() == ""


@pytest.mark.usefixtures("small_parts")
def test_a_stream_holds_a_part_of_the_rows(auto: Connection) -> None:
    rows = stream(auto, "SELECT generate_series(1, %s)", (10**9,))  # together some hundred GB
    assert list(islice(rows, 5)) == [(1,), (2,), (3,), (4,), (5,)]
    rows.close()
    assert list(stream(auto, "SELECT generate_series(1, 5)")) == [(1,), (2,), (3,), (4,), (5,)]


def test_words_prepared_in_parts_are_those_prepared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 300, (200, 40)) * (rng.random((200, 40)) < np.linspace(0, 0.5, 40))
    counts = csr_array(dense.astype(np.float32))
    monkeypatch.setattr(search, "_BLOCK", 7)
    found = Words.of(counts)
    ranks = np.cumsum(1 / np.arange(1, 256) ** 2)
    np.testing.assert_array_equal(found.values, ranks[np.minimum(counts.data, 255).astype(int) - 1].astype(np.float32))
    few = (dense > 0).sum(axis=0) <= RARE_CHUNKS
    assert 0 < few.sum() < 40
    np.testing.assert_array_equal(found.chunks_of.toarray(), csc_array((dense > 0) & few).toarray())
