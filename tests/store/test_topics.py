import numpy as np
import pytest

from heal_tasks.core.errors import StoreError
from heal_tasks.core.ids import document_id
from heal_tasks.core.types import Record
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.documents.topics import Labels, TopicRepository, TopicRow
from tests.store.sample_store import stored_labels

A, B, C = (document_id("s", name) for name in "abc")

TREE = [
    TopicRow(10, None, 0, 0, 2, ["all"], 2, 0.9, 3),
    TopicRow(12, 10, 1, 1, 2, ["right"], 2, 0.95, 2, ""),
    TopicRow(11, 10, 1, 0, 0, ["left", "é"], 0, None, 1, "too small"),
    TopicRow(13, 12, 2, 1, 1, ["x"], 0, None, 1),
    TopicRow(14, 12, 2, 2, 2, ["y"], 0, None, 1),
]


def labels(ids: list[int], leaves: list[int], paths: list[list[int]], residual: float = 0.25) -> Labels:
    count = len(ids)
    return Labels(
        np.array(ids, dtype=np.int64), np.array(leaves, dtype=np.int32), paths,
        np.full(count, 0.5, dtype=np.float32), np.full(count, residual, dtype=np.float32),
    )  # fmt: skip


@pytest.fixture
def topics(auto: Connection) -> TopicRepository:
    documents = DocumentRepository(auto)
    documents.apply_records("s", [Record(name, "", name) for name in "abc"], lambda title, body: [("", body)])
    return TopicRepository(auto)


def insert(topics: TopicRepository, fingerprint: str = "f") -> int:
    made = labels([B, A], [0, 1], [[11], [12, 13]])
    return topics.insert_run(
        fingerprint=fingerprint, uri="/t", churn=0.1, mean_residual=0.3, topics=TREE, labels=made
    )  # fmt: skip


def test_a_tree_comes_back_in_tree_order_with_its_labels(topics: TopicRepository, auto: Connection) -> None:
    assert topics.latest() is None
    assert topics.max_topic_id() == 0
    run = topics.get(insert(topics))
    assert (run.documents, run.topics, run.leaves, run.depth, run.churn) == (2, 5, 3, 2, 0.1)
    assert topics.latest() == run
    assert topics.max_topic_id() == 14
    assert topics.topics(run.topic_run_id) == [TREE[0], TREE[2], TREE[1], TREE[3], TREE[4]]
    stored = stored_labels(auto, run.topic_run_id)
    expected = {A: (1, [12, 13]), B: (0, [11])}
    assert stored.document_ids.tolist() == sorted(expected)
    assert [(leaf, path) for leaf, path in zip(stored.leaves, stored.paths, strict=True)] == [
        expected[key] for key in sorted(expected)
    ]
    assert stored.memberships.tolist() == [0.5, 0.5]


def test_the_same_tree_is_stored_once(topics: TopicRepository) -> None:
    assert insert(topics) == insert(topics)
    assert insert(topics) != insert(topics, "other")


def residuals(conn: Connection, run: int) -> tuple[float | None, float | None]:
    """Mean residual of a tree's factorised documents and of its projected ones."""
    row = conn.execute(
        "SELECT avg(residual) FILTER (WHERE NOT projected), avg(residual) FILTER (WHERE projected) "
        "FROM heal.document_topic WHERE topic_run_id = %s",
        (run,),
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_new_documents_are_labelled_by_projection(topics: TopicRepository, auto: Connection) -> None:
    run = insert(topics)
    assert residuals(auto, run) == (0.25, None)
    assert topics.add_labels(run, labels([C, 999], [2, 0], [[12, 14], [11]], residual=0.75)) == 1
    assert residuals(auto, run) == (0.25, 0.75)
    assert topics.add_labels(run, labels([C], [0], [[11]], residual=0.5)) == 1
    assert stored_labels(auto, run).leaves.tolist().count(0) == 2


def test_a_deleted_document_loses_its_labels(topics: TopicRepository, auto: Connection) -> None:
    run = insert(topics)
    DocumentRepository(auto).delete([A])
    assert stored_labels(auto, run).document_ids.tolist() == [B]
    assert topics.add_labels(run, labels([A], [0], [[11]])) == 0


def test_empty_labels(topics: TopicRepository, auto: Connection) -> None:
    run = topics.insert_run(
        fingerprint="e", uri="/t", churn=None, mean_residual=0.0, topics=[], labels=labels([], [], [])
    )
    assert stored_labels(auto, run).document_ids.shape == (0,)


def test_an_unknown_run_is_named(topics: TopicRepository) -> None:
    with pytest.raises(StoreError, match=r"there is no topic run 77; SELECT \* FROM heal\.topic_run"):
        topics.get(77)
