"""Every step killed before chosen statements: done again, it leaves the store of a run that nobody disturbed.

Of each step the first statement, one in the middle and the last one; of those that switch what is served many more.
``make test`` tries some of the points, ``make soak`` all (``--kill-points``), and prints what became of each.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.steps.engine.road import load_step, steps_of
from heal_tasks.store.db import connect
from tests.conftest import fresh_database
from tests.e2e.conftest import SMALL, short
from tests.e2e.kill_points import Snapshots, counted, kill
from tests.e2e.store_state import differences, leftovers, state_of
from tests.fake_openai import FakeOpenAI

DOCUMENTS, CONCURRENCY = 60, 4
POINTS = {"publish": 16, "nudge_live": 12, "activate": 6, "ingest": 6, "ask": 6}
"""Points of the steps that change what people see or pay; the others have three."""
QUICK = ("ingest", "ask", "publish", "nudge_live")
"""Steps of which ``make test`` tries the point in the middle."""


@dataclass
class Road:
    """One road: a store, and the states before each of its steps."""

    settings: Settings
    values: dict[str, Any]
    snapshots: Snapshots
    server: FakeOpenAI
    tried: list[tuple[str, int, int, str, str]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        with connect(self.settings.require_database_url(), autocommit=True) as conn:
            return state_of(conn)

    def step(self, name: str, manifest: Manifest, all_points: bool) -> Manifest:
        """Run a step undisturbed, then kill it at its points and run it again from the state before, each time."""
        self.snapshots.save(name)
        statements, asked = list[str](), len(self.server.requests)
        with counted(statements.append):
            made = load_step(name).run_to_end(self.settings, manifest)
        wanted, paid = self.state(), len(self.server.requests) - asked
        self.snapshots.save("after")
        for number in self._points(name, len(statements), all_points):
            self.snapshots.restore(name)
            asked = len(self.server.requests)
            assert kill(self.values, manifest, name, number), f"{name} ended before statement {number}"
            again = load_step(name).run_to_end(self.settings, manifest)
            found = differences(self.state(), wanted)
            if again.refs.keys() != made.refs.keys():
                found.append(f"refs {again.refs} instead of {made.refs}")
            if len(self.server.requests) - asked > paid + 2 * CONCURRENCY:  # under way, or answered and not stored yet
                found.append(f"{len(self.server.requests) - asked} requests instead of {paid}")
            found += self._garbage(name)
            statement = " ".join(statements[number - 1].split())[:60]
            self.tried.append((name, number, len(statements), statement, "; ".join(found) or "as undisturbed"))
        self.snapshots.restore("after")
        for kept in (name, "after"):
            self.snapshots.drop(kept)
        return made

    def _garbage(self, name: str) -> list[str]:
        """What maintenance leaves of tables and generations behind a step that publishes."""
        if name not in {"publish", "nudge_live", "first_light", "activate", "maintain"}:
            return []
        load_step("maintain").run(self.settings, Manifest(run_id="upkeep"))
        with connect(self.settings.require_database_url()) as conn:
            return leftovers(conn)

    @staticmethod
    def _points(name: str, statements: int, all_points: bool) -> list[int]:
        if not all_points:
            return [statements // 2] if name in QUICK else []
        count = min(POINTS.get(name, 3), statements)
        return sorted({1 + (statements - 1) * place // (count - 1) for place in range(count)})


@pytest.fixture
def road(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Road]:
    """An empty store with documents in its inbox, and a language model that counts its requests."""
    var_dir = tmp_path / "var"
    (var_dir / "inbox").mkdir(parents=True)
    with fresh_database(postgres) as url, FakeOpenAI() as server:
        values = {
            **SMALL, "var_dir": var_dir, "database_url": url, "llm_base_url": server.base_url, "llm_model": "fake",
            "llm_concurrency": CONCURRENCY, "map_rate": 0.2, "answer_questions": 2, "train_max_steps": 2,
            "train_eval_steps": 1, "topic_min_documents": 20, "drain_hours": 0.0,
        }  # fmt: skip
        snapshots = Snapshots(postgres, url.rpartition("/")[2], var_dir, tmp_path)
        yield Road(load_settings(**values), values, snapshots, server)


def write(road: Road, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (road.settings.var_dir / "inbox" / "documents.jsonl").write_text(lines)


def test_a_killed_step_is_done_again_as_if_nothing_had_been(road: Road, request: pytest.FixtureRequest) -> None:
    everything = request.config.getoption("--kill-points")
    rows = short(sample(("networkx",), DOCUMENTS + 4, seed=3))

    def run(run_id: str) -> Manifest:
        manifest = Manifest(run_id=run_id)
        for name in ("ingest", "route"):
            manifest = road.step(name, manifest, everything)
        for name in (*steps_of(road.settings, manifest.text("route")), "report"):
            manifest = road.step(name, manifest, everything)
        return manifest

    write(road, rows[:DOCUMENTS])
    assert run("first").text("route") == "realign"
    rows[1]["text"] = f"A new beginning. {rows[1]['text']}"
    write(road, [*rows[1:DOCUMENTS], *rows[DOCUMENTS:]])
    assert run("night").text("route") == "nudge"
    for name in ("activate", "maintain"):
        road.step(name, Manifest(run_id=name, refs={"generation_id": 0}), everything)

    for name, number, count, statement, result in road.tried:
        print(f"{name:12} {number:4} of {count:4}  {statement:60}  {result}")
    assert len(road.tried) >= (80 if everything else len(QUICK))
    assert [item for item in road.tried if item[-1] != "as undisturbed"] == []
