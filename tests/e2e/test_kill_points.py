"""Every step disturbed before chosen statements; done again, it leaves the store of a run that nobody disturbed.

Its process is killed; the database server stops; something else is done meanwhile: a rollback, a deletion, maintenance,
another run. Kills: before the first statement of each step, one in the middle and the last one, and many more of the
steps that switch what is served. ``make test`` tries some points, ``make soak`` all, and prints
what became of each.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.errors import HealError
from heal_tasks.core.manifest import Manifest
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.steps.engine.road import load_step, run_pipeline, steps_of
from heal_tasks.store.db import connect
from tests.conftest import TEMPLATE
from tests.e2e.conftest import SMALL
from tests.e2e.kill_points import Child, Snapshots, counted, crash, die, do, start, step_until, wait
from tests.e2e.store_state import Store, differences, leftovers, unsound
from tests.fake_openai import FakeOpenAI

DOCUMENTS, CHARACTERS, CONCURRENCY = 48, 200, 4
KILLS = {"publish": 16, "nudge_live": 12, "activate": 6, "ingest": 6, "ask": 6}
"""Points of the steps that change what people see or pay; the others have three."""
SWITCHES = ("publish", "nudge_live")
"""Steps at four points of which something else is done, too."""
QUICK_KILLS = ("ingest", *SWITCHES)
BESIDE = ("rollback", "delete", "maintain", "run")
OTHER_S = 2.0
"""After so long something that is done beside a step waits for it."""


@dataclass
class Road(Store):
    """One road: a store, and the states before each of its steps."""

    snapshots: Snapshots
    server: FakeOpenAI
    everything: bool
    table: Callable[[str], None]
    undisturbed: tuple[str, ...] = ()
    tried: int = 0
    faults: list[str] = field(default_factory=list)

    def step(self, name: str, manifest: Manifest) -> Manifest:
        """Run a step undisturbed, then disturb it at its points from the state before, each time."""
        if name in self.undisturbed or not (self.everything or name in QUICK_KILLS):
            return load_step(name).run_to_end(self.settings, manifest)
        self.snapshots.save(name)
        statements, asked = list[str](), len(self.server.requests)
        with counted(statements.append):
            made = load_step(name).run_to_end(self.settings, manifest)
        wanted, paid, count = self.state(), len(self.server.requests) - asked, len(statements)
        self.snapshots.save("after")

        def point(number: int, what: str, result: str) -> None:
            statement = " ".join(statements[number - 1].split())[:50]
            line = f"{name:12} {number:4} of {count:4}  {statement:50}  {what:8}  {result}"
            self.tried += 1
            self.table(line)
            if result.startswith("WRONG"):
                self.faults.append(line)

        for number in self._kills(name, count):
            asked = len(self.server.requests)
            child = self._disturbed(name, manifest, number, die)
            child.join()
            assert child.process.exitcode == -9, f"{name} ended before statement {number}: {child.sentence()}"
            found = self._again(name, manifest, made, wanted)
            # Under way, or answered and not stored yet.
            if len(self.server.requests) - asked > paid + 2 * CONCURRENCY:
                found.append(f"{len(self.server.requests) - asked} requests instead of {paid}")
            point(number, "killed", f"WRONG: {'; '.join(found)}" if found else "as undisturbed")
        for number in [1 + count // 2] if self.everything or name == "nudge_live" else []:
            child = self._disturbed(name, manifest, number, crash, self.snapshots.server.data_dir)
            child.join()
            self.snapshots.server.start()
            found = self._again(name, manifest, made, wanted)
            if not (sentence := child.sentence()) or sentence.startswith("UNNAMED"):
                found.append(f"it said {sentence!r}")
            point(number, "server", f"WRONG: {'; '.join(found)}" if found else f"as undisturbed; {sentence[:60]}")
        for number in self._meetings(name, count):
            for other in BESIDE if self.everything else ["delete"]:
                point(number, other, self._beside(name, manifest, number, other))
        self.snapshots.restore("after")
        for kept in (name, "after"):
            self.snapshots.drop(kept)
        return made

    def _disturbed(self, name: str, manifest: Manifest, number: int, then: Any, *arguments: Any) -> Child:
        self.snapshots.restore(name)
        return start(self.snapshots.folder, step_until, self.values, manifest, name, number, then, *arguments)

    def _again(self, name: str, manifest: Manifest, made: Manifest, wanted: dict[str, Any]) -> list[str]:
        """Run a step again, and say what differs from the state that it left undisturbed."""
        again = load_step(name).run_to_end(self.settings, manifest)
        found = differences(self.state(), wanted)
        # Only the try that has written a model says which hash its files have.
        if again.refs.keys() | {"answers_model_sha256"} != made.refs.keys() | {"answers_model_sha256"}:
            found.append(f"refs {again.refs} instead of {made.refs}")
        if name in {*SWITCHES, "first_light", "activate", "maintain"}:
            load_step("maintain").run(self.settings, Manifest(run_id="upkeep"))
            with connect(self.settings.require_database_url()) as conn:
                found += leftovers(conn)
        return found

    def _beside(self, name: str, manifest: Manifest, number: int, other: str) -> str:
        """Do something else while a step waits before a statement; then a run, and say what became of it all."""
        reached, release = (self.snapshots.folder / f"{what}{self.tried}" for what in ("reached", "release"))
        child = self._disturbed(name, manifest, number, wait, reached, release)
        while not reached.exists():
            assert child.process.is_alive(), child.sentence()
            time.sleep(0.02)
        second = start(self.snapshots.folder, do, self.values, other)
        waited = not second.join(OTHER_S)
        release.touch()
        ended = all(item.join(120) for item in (child, second))
        sentences = [item.sentence() for item in (child, second)]
        if not ended or any(sentence.startswith("UNNAMED") for sentence in sentences):
            return f"WRONG: {sentences}, ended: {ended}"
        if sentences[0]:  # as Airflow does: a second attempt, and the page that ends a run that failed
            with suppress(HealError):
                load_step(name).run_to_end(self.settings, manifest)
            load_step("report").run(self.settings, manifest)
        run_pipeline(self.settings, "afterwards")
        load_step("maintain").run(self.settings, Manifest(run_id="upkeep"))
        with connect(self.settings.require_database_url(), autocommit=True) as conn:
            found = unsound(conn) + leftovers(conn)
        said = "; ".join(f"{who}: {text[:60]}" for who, text in zip((name, other), sentences, strict=True) if text)
        return f"WRONG: {'; '.join(found)}" if found else f"sound{', waited' if waited else ''} {said}".rstrip()

    def _kills(self, name: str, statements: int) -> list[int]:
        if not self.everything:
            return [statements // 2]
        count = min(KILLS.get(name, 3), statements)
        return sorted({1 + (statements - 1) * place // (count - 1) for place in range(count)})

    def _meetings(self, name: str, statements: int) -> list[int]:
        if name not in SWITCHES or not (self.everything or name == "nudge_live"):
            return []
        places = (1, 2, 3, 4) if self.everything else (3,)
        return [statements * place // 5 for place in places]


@pytest.fixture
def road(postgres: EmbeddedPostgres, tmp_path: Path, soak: bool, table: Callable[[str], None]) -> Iterator[Road]:
    """An empty store with documents in its inbox, and a language model that counts its requests."""
    var_dir = tmp_path / "var"
    (var_dir / "inbox").mkdir(parents=True)
    # A connection that is open all the time would not outlive a stop of the server.
    snapshots = Snapshots(postgres, "disturbed", var_dir, tmp_path)
    with FakeOpenAI() as server:
        values = {
            **SMALL, "var_dir": var_dir, "database_url": snapshots.begin(TEMPLATE),
            "llm_base_url": server.base_url, "llm_model": "fake",
            "llm_concurrency": CONCURRENCY, "map_rate": 0.2, "answer_questions": 2, "train_max_steps": 2,
            "train_eval_steps": 1, "topic_min_documents": 20, "drain_hours": 0.0, "nudge_max_changed_share": 0.5,
            "topic_max_churn": 1.0,
        }  # fmt: skip
        yield Road(values, snapshots, server, soak, table)
    snapshots.end()


def write(road: Road, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (road.settings.var_dir / "inbox" / "documents.jsonl").write_text(lines)


def test_a_disturbed_step_is_done_again_as_if_nothing_had_been(road: Road) -> None:
    rows = [{**row, "text": row["text"][:CHARACTERS]} for row in sample(("networkx",), DOCUMENTS + 4, seed=3)]

    def run(run_id: str) -> Manifest:
        manifest = Manifest(run_id=run_id)
        for name in ("ingest", "route"):
            manifest = road.step(name, manifest)
        for name in (*steps_of(road.settings, manifest.text("route")), "report"):
            manifest = road.step(name, manifest)
        return manifest

    write(road, rows[:DOCUMENTS])
    assert run("first").text("route") == "realign"
    rows[1]["text"] = f"A new beginning. {rows[1]['text']}"
    write(road, [*rows[1:DOCUMENTS], *rows[DOCUMENTS:]])
    assert run("night").text("route") == "nudge"
    for name in ("activate", "maintain"):
        road.step(name, Manifest(run_id=name, refs={"generation_id": 0}))
    if road.everything:  # to something live, with something to roll back to
        road.values["force_route"] = "realign"
        road.undisturbed = tuple({"ingest", "route", "report", *steps_of(road.settings, "realign")} - {"publish"})
        assert run("again").text("route") == "realign"

    assert road.tried >= (150 if road.everything else 5)
    assert road.faults == []
