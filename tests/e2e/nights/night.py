"""Nights of one store: each step in this process, or in one that is killed, or whose database server stops."""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from heal_tasks.core.errors import HealError
from heal_tasks.core.manifest import Manifest
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step, steps_of
from tests.e2e.kill_points import counted, crash, die, start, step_until
from tests.e2e.store_state import Store

HAZARD = 0.3
"""Share of the steps of a dangerous night that are disturbed; the last one is, if no other was."""


@dataclass
class Row:
    """One night in figures."""

    night: int
    what: str
    route: str = ""
    generation: int = 0
    documents: int = 0
    base: float = 0.0
    base_low: float = 0.0
    base_high: float = 0.0
    by_vector: float = 0.0
    by_encoder: float = 0.0
    by_text: float = 0.0
    files_mb: float = 0.0
    database_mb: float = 0.0
    memory_mb: float = 0.0
    connections: int = 0
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The row of the printed table."""
        return (
            f"{self.night:5}  {self.what[:46]:46}  {self.route:8} {self.generation:4} {self.documents:5}  "
            f"{self.by_vector:.3f}  {self.by_encoder:.3f} {self.by_text:.3f}  "
            f"{self.base:.3f} [{self.base_low:.3f}, {self.base_high:.3f}]  "
            f"{self.files_mb:6.0f} {self.database_mb:6.1f} {self.memory_mb:6.0f} {self.connections:3}  "
            f"{'ok' if not self.faults else 'WRONG: ' + '; '.join(self.faults)}"
        )

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self)


HEADING = (
    "night  what happened                                   route     gen  docs  vector hybrid text  base "
    "model             files  base    RSS con  (MB)"
)


@dataclass
class Nights(Store):
    """A store that is run night after night."""

    server: EmbeddedPostgres
    folder: Path  # of what killed processes say
    draw: random.Random
    ingested: Callable[[], None]  # called as soon as the sources have been read
    statements: dict[str, int] = field(default_factory=dict)  # of each step, when it was last done undisturbed

    def run(self, run_id: str, hazard: str = "") -> tuple[str, list[str]]:
        """A run as the DAG does it, with the page that is always written: the route, and what became of it.

        A run that is begun again goes on.

        Args:
            run_id: of the run.
            hazard: ``kill`` or ``crash``: some steps are disturbed and tried again.
        """
        manifest, said, route = Manifest(run_id=run_id), list[str](), ""
        try:
            for name in ("ingest", "route"):
                manifest = self._step(name, manifest, hazard, said)
                if name == "ingest":
                    self.ingested()
            route = manifest.text("route")
            for name in steps_of(self.settings, route):
                manifest = self._step(name, manifest, hazard, said)
        except HealError as error:
            said.append(f"failed: {error}")
        self._step("report", manifest, hazard, said)
        return route, said

    def upkeep(self, run_id: str) -> None:
        """The step that runs every morning."""
        load_step("maintain").run(self.settings, Manifest(run_id=run_id))

    def roll_back(self, run_id: str) -> bool:
        """Back to the generation before, if there is one."""
        with suppress(HealError):
            load_step("activate").run(self.settings, Manifest(run_id=run_id, refs={"generation_id": 0}))
            return True
        return False

    def _step(self, name: str, manifest: Manifest, hazard: str, said: list[str]) -> Manifest:
        if hazard and (self.draw.random() < HAZARD or (name == "report" and not said)):
            # The last statements may not be sent tonight.
            number = self.draw.randint(1, 1 + self.statements.get(name, 20) // 2)
            then, arguments = (die, ()) if hazard == "kill" else (crash, (self.server.data_dir,))
            child = start(self.folder, step_until, self.values, manifest, name, number, then, *arguments)
            child.join()
            self.server.start()
            sentence = child.sentence()
            assert not sentence.startswith("UNNAMED"), f"{name} at statement {number}: {sentence}"
            if child.process.exitcode or sentence:
                said.append(f"{name} {'killed' if hazard == 'kill' else 'lost its server'} at {number}")
        statements = list[str]()
        with counted(statements.append):
            made = load_step(name).run_to_end(self.settings, manifest)
        self.statements[name] = len(statements)
        return made
