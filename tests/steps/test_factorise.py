"""The root of a large corpus, shared out over tasks: the tree of one process, and nothing left behind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heal_tasks.core.errors import StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.factorise import SharedRoot
from heal_tasks.store.db import connect
from heal_tasks.topics.tree import TopicTree
from heal_tasks.topics.units import Unit, Workbench
from tests.conftest import fresh_database
from tests.topics.conftest import plant


@pytest.fixture(scope="module")
def stored(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A database with 300 planted documents."""
    var_dir = tmp_path_factory.mktemp("var")
    rows = [{"id": str(number), "title": "", "text": text} for number, text in enumerate(plant(3, 300).texts)]
    (var_dir / "inbox").mkdir()
    (var_dir / "inbox" / "planted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with fresh_database(postgres) as url:
        settings = load_settings(var_dir=var_dir, database_url=url, topic_perturbations=4, topic_max_k=4)
        load_step("ingest").run(settings, Manifest(run_id="ingested"))
        yield settings


def tree_of(settings: Settings, manifest: Manifest) -> TopicTree:
    return TopicTree.load(Path(load_step("label").run(settings, manifest).text("topics_uri")))


def test_shared_out_or_not_the_tree_is_the_same(stored: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tree_of(stored, Manifest(run_id="alone"))
    # Churn is an input of the step, so label does not simply return what it has found before.
    sharing = stored.model_copy(update={"topic_shards": 2, "topic_shard_documents": 1, "topic_max_churn": 0.9})
    counted = load_step("count_words").run(sharing, Manifest(run_id="shared"))
    assert "2 tasks share the root" in counted.note
    done = [load_step("factorise").run(sharing, counted, shard, 2).counts["units"] for shard in (0, 1)]
    assert done == [9, 8]
    again = load_step("factorise").run(sharing, counted.model_copy(update={"run_id": "retried"}), 0, 2)
    assert again.counts["units"] == 0

    asked: list[Any] = []
    original = SharedRoot.stored
    monkeypatch.setattr(SharedRoot, "stored", lambda root, unit: asked.append(original(root, unit)) or asked[-1])
    monkeypatch.setattr(Workbench, "run", refuse_root(Workbench.run))
    shared = tree_of(sharing, counted)
    assert asked
    assert None not in asked
    assert shared.nodes == alone.nodes
    assert shared.selection == alone.selection
    for topic_id, factors in alone.factors.items():
        np.testing.assert_array_equal(shared.factors[topic_id].term_factors, factors.term_factors)
    assert not list((stored.var_dir / "artifacts" / "topics").glob("root-*"))


def refuse_root(run: Any) -> Any:
    def checked(bench: Workbench, unit: Unit) -> Any:
        assert bench.X.shape[0] < 200, f"{unit} of the root was done again"
        return run(bench, unit)

    return checked


def test_a_small_corpus_is_left_to_label(stored: Settings) -> None:
    sharing = stored.model_copy(update={"topic_shards": 2})
    counted = load_step("count_words").run(sharing, Manifest(run_id="small"))
    assert counted.refs["counts_uri"] == ""
    assert counted.note.startswith("not shared out: 300 documents, below HEAL_TOPIC_SHARD_DOCUMENTS=50000")
    factorised = load_step("factorise").run(sharing, counted, 1, 2)
    assert factorised.note == "not shared out; label factorises the root"


def test_counts_of_other_settings_are_refused(stored: Settings) -> None:
    sharing = stored.model_copy(update={"topic_shards": 2, "topic_shard_documents": 1})
    counted = load_step("count_words").run(sharing, Manifest(run_id="stale"))
    changed = sharing.model_copy(update={"topic_noise": 0.02})
    for step in ("factorise", "label"):
        with pytest.raises(StepError, match=r"changed since count_words left .*/counts; run this run's tasks again"):
            load_step(step).run(changed, counted)


def test_too_much_churn_stops_before_anything_is_stored(stored: Settings) -> None:
    inbox = stored.var_dir / "inbox" / "planted.jsonl"
    rows = [{"id": str(number), "title": "", "text": text} for number, text in enumerate(plant(8, 300).texts)]
    inbox.write_text("".join(json.dumps(row) + "\n" for row in rows))
    strict = stored.model_copy(update={"topic_max_churn": 0.1})
    load_step("ingest").run(strict, Manifest(run_id="other"))
    with pytest.raises(
        Exception, match=r"100% of the documents are in topics without a match.*HEAL_TOPIC_MAX_CHURN=0\.1"
    ):
        load_step("label").run(strict, Manifest(run_id="other"))
    with connect(stored.require_database_url()) as conn:
        assert conn.execute("SELECT count(*) FROM heal.topic_run").fetchone() == (2,)
