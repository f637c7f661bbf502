"""Datasets that a step tells OpenLineage about."""

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.store.db import Connection

SERVER = "postgres://db.example:5432"


@pytest.fixture
def settings(plugins: None) -> Settings:
    return load_settings(
        database_url="postgresql://user:secret@db.example/vectors",
        sources=("file:/data/my folder", "s3://bucket/in/", "pydocs:numpy,scipy"),
        source_roots=("file:/data", "s3://bucket", "pydocs:"),
    )


def test_ingest_reads_the_sources_and_writes_tables_with_counts(settings: Settings) -> None:
    from heal_lineage import datasets

    start = Manifest(run_id="r")
    after = start.next(
        "ingest", refs={}, counts={"new": 5, "changed": 2, "moved": 1, "chunks_added": 9, "rejected": 0}, note=""
    )
    inputs, outputs = datasets(settings, start, after)
    assert inputs == [("file", "/data/my folder"), ("s3://bucket", "in"), ("pydocs", "numpy,scipy")]
    assert outputs == {
        (SERVER, "vectors.heal.document"): 8,
        (SERVER, "vectors.heal.chunk"): 9,
        (SERVER, "vectors.heal.quarantine"): 0,
    }


def test_artifacts_lead_from_step_to_step_and_a_generation_to_its_readers(settings: Settings) -> None:
    from heal_lineage import datasets

    mined = Manifest(run_id="r", step="mine", refs={"training_set_uri": "s3://bucket/a/set"})
    trained = mined.next(
        "train", refs={"answers_model_uri": "/var/models/m", "topics_model_uri": ""}, counts={}, note=""
    )
    assert datasets(settings, mined, trained) == ([("s3://bucket", "a/set")], {("file", "/var/models/m"): None})
    published = trained.next("publish", refs={"went_live": 7}, counts={"rows": 40}, note="")
    inputs, outputs = datasets(settings, trained, published)
    assert {(SERVER, "vectors.heal.chunk"), ("file", "/var/models/m")} <= set(inputs)
    assert outputs == {(SERVER, "vectors.heal.vec_g000007"): 40, (SERVER, "vectors.heal.embedding"): 40}
    assert "secret" not in f"{inputs}{outputs}"
    for refs, counts in (({}, {}), ({"went_live": 0}, {"rows": 40})):
        nothing = trained.next("first_light", refs=refs, counts=counts, note="live already, or not published")
        assert datasets(settings, trained, nothing)[1] == {}


def test_every_named_step_and_table_exists(plugins: None, conn: Connection) -> None:
    from heal_lineage import _TABLES

    from heal_tasks.steps.engine.road import STEPS

    assert STEPS.keys() >= _TABLES.keys()
    for name in {name for read, written in _TABLES.values() for name in (*read, *written)}:
        found = conn.execute("SELECT to_regclass(%s)", (f"heal.{name}",)).fetchone()
        assert name.startswith("vec_g{") or found != (None,), name


def test_without_the_provider_nothing_is_imported_and_nothing_fails(settings: Settings) -> None:
    import sys

    from heal_lineage import emit_lineage

    emit_lineage(settings, Manifest(run_id="r"), Manifest(run_id="r", step="ingest"))
    assert not [name for name in sys.modules if name.startswith("openlineage")]
