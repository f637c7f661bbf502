"""Step label on a real store: held-out documents are projected, and too much churn stops before training."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from heal_tasks.core.errors import StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.questions.splits import is_unseen
from heal_tasks.steps import label
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import connect
from heal_tasks.topics.tree import TopicTree
from tests.conftest import fresh_database
from tests.store.sample_store import stored_labels
from tests.topics.conftest import plant

SEED, DOCUMENTS = 3, 300


def write_corpus(settings_folder: Path, seed: int) -> None:
    rows = [{"id": str(number), "title": "", "text": text} for number, text in enumerate(plant(seed, DOCUMENTS).texts)]
    inbox = settings_folder / "inbox"
    inbox.mkdir(exist_ok=True)
    (inbox / "planted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def stored(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A database with 300 planted documents."""
    var_dir = tmp_path_factory.mktemp("var")
    write_corpus(var_dir, SEED)
    with fresh_database(postgres) as url:
        settings = load_settings(var_dir=var_dir, database_url=url, topic_perturbations=4, topic_max_k=4)
        load_step("ingest").run(settings, Manifest(run_id="ingested"))
        yield settings


def test_held_out_documents_take_no_part_in_the_tree_and_are_projected_on_it(stored: Settings) -> None:
    made = load_step("label").run(stored, Manifest(run_id="first"))
    tree = TopicTree.load(Path(made.text("topics_uri")))
    with connect(stored.require_database_url()) as conn:
        labels = stored_labels(conn, made.number("topic_run_id"))
        rows = conn.execute("SELECT document_id FROM heal.document_topic WHERE projected ORDER BY 1").fetchall()
    held_out = np.array([is_unseen(document_id) for document_id in labels.document_ids.tolist()])
    assert 30 < held_out.sum() < 90
    assert labels.document_ids[held_out].tolist() == [document_id for (document_id,) in rows]
    assert len(tree.leaves) == (~held_out).sum()
    assert sorted(labels.leaves[~held_out].tolist()) == sorted(tree.leaves.tolist())
    assert all(path and min(path) > 0 for path in labels.paths)


def test_a_large_corpus_has_its_tree_of_a_sample_and_a_label_for_every_document(
    stored: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label, "MOST_DOCUMENTS", 150)
    monkeypatch.setattr(label, "BATCH", 40)
    anew = stored.model_copy(update={"topic_max_churn": 1.0})
    made = load_step("label").run(anew, Manifest(run_id="sampled"))
    with connect(stored.require_database_url()) as conn:
        labels = stored_labels(conn, made.number("topic_run_id"))
        rows = conn.execute(
            "SELECT d.document_id, d.external_id::int, t.projected FROM heal.document d JOIN heal.document_topic t "
            "USING (document_id) WHERE t.topic_run_id = %s ORDER BY 1",
            (made.number("topic_run_id"),),
        ).fetchall()
    ids, numbers, projected = (np.array(column) for column in zip(*rows, strict=True))
    assert len(TopicTree.load(Path(made.text("topics_uri"))).leaves) == 150
    assert labels.document_ids.tolist() == ids.tolist()
    seen = [document_id for document_id in ids.tolist() if not is_unseen(document_id)]
    assert ids[~projected].tolist() == sorted(seen)[:150], "the same sample tomorrow, but for what is new"
    planted = plant(SEED, DOCUMENTS).fine[numbers]
    for topic in range(6):
        built = np.bincount(labels.leaves[~projected & (planted == topic)])
        assert np.mean(labels.leaves[projected & (planted == topic)] == built.argmax()) > 0.9


def test_too_much_churn_stops_before_anything_is_stored(stored: Settings) -> None:
    with connect(stored.require_database_url()) as conn:
        before = conn.execute("SELECT count(*) FROM heal.topic_run").fetchone()
    write_corpus(stored.var_dir, seed=8)
    strict = stored.model_copy(update={"topic_max_churn": 0.1})
    load_step("ingest").run(strict, Manifest(run_id="other"))
    with pytest.raises(
        StepError, match=r"100% of the documents are in topics without a match.*HEAL_TOPIC_MAX_CHURN=0\.1"
    ):
        load_step("label").run(strict, Manifest(run_id="other"))
    with connect(stored.require_database_url()) as conn:
        assert conn.execute("SELECT count(*) FROM heal.topic_run").fetchone() == before
