"""The map of documents: stored by the run that drew it, and read with the page of the store."""

from pathlib import Path

from markupsafe import Markup, escape

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.report.pictures import Projection
from heal_tasks.report.store_map import read_map, write_map
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import RunRepository

EVIL = "<script>alert(1)</script>"


def test_the_newest_map_is_shown_until_a_run_draws_another(auto: Connection, tmp_path: Path) -> None:
    artifacts, runs = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache"), RunRepository(auto)
    assert read_map(auto, artifacts) is None
    for run_id, planes in (("r1", 2), ("r2", 1), ("r3", 0)):
        projection = Projection([Markup("<svg/>")] * planes, [EVIL], 40) if planes else None
        runs.begin("report", run_id, 0, run_id)
        runs.finish("report", run_id, 0, run_id, {"refs": {"map_uri": write_map(artifacts, run_id, projection)}})
    found = read_map(auto, artifacts)
    assert found is not None
    assert (found.run_id, found.picture.count("<svg/>"), found.problem) == ("r2", 1, "")
    assert str(escape(EVIL)) in found.picture
    assert "t-SNE" in found.picture
    assert "alignment moved no vector" in found.picture
    auto.execute("DELETE FROM heal.step_result WHERE run_id = 'r2'")
    older = read_map(auto, artifacts)
    assert older is not None
    assert (older.run_id, older.picture.count("<svg/>")) == ("r1", 2)
    (uri,) = (
        auto.execute("SELECT result -> 'refs' ->> 'map_uri' FROM heal.step_result WHERE run_id = 'r1'").fetchone() or ()
    )
    artifacts.delete(uri)
    gone = read_map(auto, artifacts)
    assert gone is not None
    assert "missing or incomplete" in gone.problem
