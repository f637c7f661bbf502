"""Every step without what it needs: disk, memory, a connection, a lock that another session has, or a steady clock.

It says what was wrong and what to do, loses nothing, shows nothing half made, and done again it leaves the store of a
run that nobody disturbed. ``make soak`` runs it and prints a table; ``make test`` has parts of it.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.steps.engine.road import load_step, steps_of
from heal_tasks.steps.vectors import indexing
from heal_tasks.store.db import connect
from tests.conftest import TEMPLATE
from tests.e2e.conftest import SMALL, short
from tests.e2e.kill_points import Child, do, start
from tests.e2e.scarce_cases import CASES, Case
from tests.e2e.scarcity import (
    INDEXED_ROWS,
    SmallDatabase,
    every_connection,
    few_connections,
    fill,
    free,
    jump_at,
    row,
    small_disk,
    step_before,
    step_within,
)
from tests.e2e.store_state import Store, differences, leftovers

DOCUMENTS = 48
SERVED = "SELECT chunk_id, round(score::numeric, 5) FROM heal.find('how is a graph drawn', 5) ORDER BY 2 DESC, 1"
GONE_S = 600
"""A step that has not ended by then waits for ever."""


@dataclass
class World(Store):
    """A store on small disks, and the states before each of its steps."""

    snapshots: SmallDatabase
    state_disk: Path
    table_disk: Path
    table: Callable[[str], None]
    faults: list[str] = field(default_factory=list)

    def served(self) -> list[Any]:
        with connect(self.settings.require_database_url(), autocommit=True) as conn:
            live = conn.execute("SELECT FROM heal.generation WHERE state = 'active'").rowcount
            return conn.execute(SERVED).fetchall() if live else []

    def step(self, name: str, manifest: Manifest, cases: list[Case]) -> Manifest:
        """Run a step, and, from the state before, once for each thing that it may lack."""
        if not cases:
            return load_step(name).run_to_end(self.settings, manifest)
        self.snapshots.save(name)
        made = load_step(name).run_to_end(self.settings, manifest)
        wanted = self.state()
        self.snapshots.save("after")
        for case in cases:
            expected = self._maintained(name, manifest, case) if case.after_maintenance else wanted
            self.snapshots.restore(name)
            before = self.served()
            with ExitStack() as held:
                child = self._start(case, name, manifest, held)
                ended = child.join(GONE_S)
                if not ended:
                    child.process.kill()
                    child.join()
            free(self.state_disk)
            free(self.table_disk)
            found = [] if ended else ["it did not end"]
            sentence, code = child.sentence(), child.process.exitcode
            # Libraries of linear algebra end a process that has no memory, and say so in its log.
            silent = case.resource == "memory" and code and not sentence
            if sentence.startswith("UNNAMED") or (case.says and not silent and not _says(sentence, case.says)):
                found.append(f"it ended with {code} and said {sentence!r}")
            if sentence and self.served() != before:
                found.append("another answer to a question")
            found += self._again(name, manifest, made, expected)
            said = sentence or ("(went through)" if code == 0 else f"(the process ended with {code})")
            result = f"WRONG: {'; '.join(found)}" if found else "as undisturbed"
            line = row(case.resource, name, case.what, said, result)
            self.table(line)
            if found:
                self.faults.append(line)
        self.snapshots.restore("after")
        for kept in (name, "after"):
            self.snapshots.drop(kept)
        return made

    def _maintained(self, name: str, manifest: Manifest, case: Case) -> dict[str, Any]:
        """The state that a step leaves after maintenance, without a jump; all is old if the clock goes forward."""
        self.snapshots.restore(name)
        jump_at(
            self.settings.require_database_url(), 0
        )  # the rows then lie in the same order, in which sums are rounded
        old = self.settings.model_copy(update={"drain_hours": 0.0 if case.detail[0] > 0 else 24.0})
        load_step("maintain").run(old, Manifest(run_id="beside maintain"))
        self._forget_beside()
        load_step(name).run_to_end(self.settings, manifest)
        return self.state()

    def _forget_beside(self) -> None:
        with connect(self.settings.require_database_url(), autocommit=True) as conn:
            conn.execute("DELETE FROM heal.step_result WHERE starts_with(run_id, 'beside ')")

    def _start(self, case: Case, name: str, manifest: Manifest, held: ExitStack) -> Child:
        values, folder, detail = self.values, self.snapshots.folder, case.detail
        if case.resource == "memory":
            return start(folder, step_within, values, manifest, name, *detail)
        if case.resource == "clock":
            url, (hours, statement) = self.settings.require_database_url(), detail
            if statement:
                return start(folder, step_before, values, manifest, name, statement, jump_at, url, hours)
            jump_at(url, hours)
            return start(folder, do, values | {"drain_hours": 24.0}, "maintain")
        if case.resource in ("disk", "server disk"):
            disk = self.state_disk if case.resource == "disk" else self.table_disk
            return start(folder, step_before, values, manifest, name, detail, fill, disk)
        if case.resource == "connections":
            most = 1000 if detail == "all" else detail
            url = held.enter_context(few_connections(self.snapshots.server, self.snapshots.database, most))
            if detail == "all":
                held.enter_context(every_connection(url))
            return start(folder, step_within, values | {"database_url": url}, manifest, name, 1 << 20)
        return held.enter_context(self._locked(*detail, name, manifest, reading=case.resource == "reader"))

    @contextmanager
    def _locked(self, table: str, seconds: float, name: str, manifest: Manifest, *, reading: bool) -> Iterator[Child]:
        """A step that another session's lock on a table keeps waiting for a while."""
        with psycopg.connect(self.settings.require_database_url()) as conn:
            if table == "served":
                ((table,),) = conn.execute(
                    "SELECT 'heal.' || heal.vector_table(generation_id) FROM heal.generation WHERE state = 'active'"
                ).fetchall()
            mode = "ACCESS SHARE" if reading else "ACCESS EXCLUSIVE"
            conn.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())
            child = start(self.snapshots.folder, step_within, self.values, manifest, name, 1 << 20)
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
            until = time.monotonic() + GONE_S
            while child.process.is_alive() and not conn.execute(waiting).fetchall()[0][0]:
                assert time.monotonic() < until
                time.sleep(0.02)
            child.join(seconds)
        yield child

    def _again(self, name: str, manifest: Manifest, made: Manifest, wanted: dict[str, Any]) -> list[str]:
        """Run a step again, and say what differs from the state that it left undisturbed."""
        self._forget_beside()
        again = load_step(name).run_to_end(self.settings, manifest)
        found = differences(self.state(), wanted)
        if again.refs.keys() != made.refs.keys():
            found.append(f"refs {again.refs} instead of {made.refs}")
        if name in ("publish", "first_light", "nudge_live", "maintain"):
            load_step("maintain").run(self.settings, Manifest(run_id="upkeep"))
            with connect(self.settings.require_database_url()) as conn:
                found += leftovers(conn)
        root = Path(self.settings.artifacts_uri)
        found += [f"{path.name} is left" for path in root.rglob(".writing-*")]
        return found


def _says(sentence: str, pattern: str) -> bool:
    return re.search(pattern, sentence) is not None


@pytest.fixture
def world(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Callable[[str], None]
) -> Iterator[World]:
    """An empty store with documents in its inbox."""
    monkeypatch.setattr(indexing, "EXACT_ROWS", INDEXED_ROWS)
    with small_disk(tmp_path / "state", 1500) as state, small_disk(Path(f"{postgres.data_dir}.small"), 512) as tables:
        var_dir = state / "var"
        (var_dir / "inbox").mkdir(parents=True)
        (tmp_path / "kept").mkdir()
        snapshots = SmallDatabase(postgres, "scarce", var_dir, tmp_path / "kept")
        snapshots.on(tables)
        values = {
            **SMALL, "var_dir": var_dir, "database_url": snapshots.begin(TEMPLATE), "train_max_steps": 2,
            "train_eval_steps": 1, "topic_min_documents": 20, "drain_hours": 0.0, "nudge_max_changed_share": 0.5,
            "topic_max_churn": 1.0,
        }  # fmt: skip
        try:
            yield World(values, snapshots, state, tables, table)
        finally:
            snapshots.end()


def write(world: World, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (world.settings.var_dir / "inbox" / "documents.jsonl").write_text(lines)


@pytest.mark.usefixtures("soaking")
def test_a_step_without_what_it_needs_says_so_and_is_done_again(world: World) -> None:
    rows = short(sample(("networkx",), DOCUMENTS + 4, seed=3))

    def run(run_id: str, route: str) -> None:
        manifest = Manifest(run_id=run_id)
        for name in ("ingest", "route"):
            manifest = world.step(name, manifest, CASES.get(name, []) if run_id == "first" else [])
        assert manifest.text("route") == route
        for name in (*steps_of(world.settings, route), "report"):
            new = run_id == "first" or name == "nudge_live"
            manifest = world.step(name, manifest, CASES.get(name, []) if new else [])

    write(world, rows[:DOCUMENTS])
    run("first", "realign")
    write(world, [*rows[1:DOCUMENTS], *rows[DOCUMENTS:]])
    run("night", "nudge")
    world.step("maintain", Manifest(run_id="maintain"), CASES["maintain"])
    assert world.faults == []
