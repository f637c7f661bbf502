"""A topic tree of a planted corpus, built by the real step in a database of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record
from heal_tasks.report.stored_tree import StoredTree, read_root_records, read_tree
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.topics.nmfk import KRecord
from tests.steps.nudge_world import World
from tests.topics.conftest import plant

RUN = "planted"


@dataclass(frozen=True)
class Built:
    """Three super-topics of two sub-topics, their tree, and the k records of its root."""

    settings: Settings
    tree: StoredTree
    records: tuple[KRecord, ...]


@pytest.fixture(scope="module")
def built(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    settings = load_settings(
        var_dir=tmp_path_factory.mktemp("var"), database_url=module_database_url,
        topic_max_k=3, topic_perturbations=2,
    )  # fmt: skip
    with connect(module_database_url, autocommit=True) as conn:
        records = [Record(str(number), "", text) for number, text in enumerate(plant(0, documents=480).texts)]
        DocumentRepository(conn).apply_records("s", records, lambda title, body: [("", body)])
        RunRepository(conn).open_run(RUN)
        made = load_step("label").run(settings, Manifest(run_id=RUN))
        tree = read_tree(conn, made.number("topic_run_id"))
    return Built(settings, tree, read_root_records(artifact_store(settings), tree))


@pytest.fixture
def shared(built: Built) -> Iterator[Connection]:
    """A connection to the database of ``built``; topic runs and generations that a test adds are removed again."""
    with connect(built.settings.require_database_url(), autocommit=True) as conn:
        yield conn
        conn.execute("DELETE FROM heal.generation")
        conn.execute("DELETE FROM heal.topic_run WHERE topic_run_id <> %s", (built.tree.run.topic_run_id,))


@pytest.fixture(scope="module")
def nudge_world(module_database_url: str) -> World:
    """A served generation with a nudge record, to be copied."""
    with connect(module_database_url, autocommit=True) as conn:
        return World(conn, load_settings(database_url=module_database_url))
