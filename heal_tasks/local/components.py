"""Airflow's four components as processes: start, wait, end, and their record in ``airflow/pids.json``.

An AirflowError about a component has the end of its log.
"""

import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from heal_tasks.core.errors import AirflowError, AirflowUnreachableError, SettingsError
from heal_tasks.core.files import private_folder
from heal_tasks.local import processes
from heal_tasks.local.airflow_client import AirflowClient

# Arguments of the command, and name at /monitor/health; in the order of their start.
COMPONENTS = {
    "api-server": (["api-server"], "metadatabase"),
    "dag-processor": (["dag-processor"], "dag_processor"),
    "triggerer": (["triggerer", "--skip-serve-logs"], "triggerer"),
    "scheduler": (["scheduler", "--skip-serve-logs"], "scheduler"),
}
RECORD = Path("airflow", "pids.json")  # in the state folder
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
PORTS_TRIED = 50


class State(BaseModel):
    """Record of the started components, by which another process finds and ends them."""

    port: int = 0  # of the API server; kept over restarts while it is free
    wanted_port: int = 0  # the setting when the port was chosen
    environment: str = ""  # hash of the components' environment
    components: dict[str, processes.Recorded] = {}

    @property
    def base_url(self) -> str:
        """Airflow's UI and API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> set[str]:
        """Names of the components whose process runs."""
        return {name for name, recorded in self.components.items() if processes.is_alive(recorded)}


def read_state(var_dir: Path) -> State:
    """Read the record; empty where there is none."""
    path = var_dir / RECORD
    return State.model_validate_json(path.read_text()) if path.exists() else State()


def write_state(var_dir: Path, state: State) -> None:
    """Write the record."""
    processes.write_private(var_dir / RECORD, state.model_dump_json())


def choose_port(wanted: int, state: State) -> None:
    """Set the API server's port: the last one if the setting is the same, else the next free one from ``wanted``."""
    kept = [state.port] if state.port and state.wanted_port == wanted else []
    candidates = range(wanted, min(wanted + PORTS_TRIED, 65536)) if wanted else [0]
    port = processes.first_free([*kept, *candidates])
    if port is None:
        raise SettingsError(
            f"ports {wanted} to {candidates[-1]} are taken; set HEAL_AIRFLOW_PORT to a free one, or to 0"
        )
    state.port, state.wanted_port = port, wanted


def start(var_dir: Path, state: State, names: Iterable[str], env: dict[str, str], client: AirflowClient) -> None:
    """Start components in the given order, record each at once, and return when all are healthy."""
    deadline = time.monotonic() + START_TIMEOUT_S
    for name in names:
        if name == "scheduler":
            # It resumes interrupted tasks within a second, and a task fails that finds no API server (measured).
            _wait(client, state, ["api-server"], deadline)
        # The scheduler lets running tasks finish; its workers would drop them if they got the signal themselves. The
        # triggerer waits ten seconds for its child if it alone gets the signal (measured).
        alone, log = name == "scheduler", var_dir / "logs" / f"{name}.log"
        state.components[name] = processes.spawn([_program(), *COMPONENTS[name][0]], env, log, ends_its_own=alone)
        write_state(var_dir, state)
    _wait(client, state, list(COMPONENTS), deadline)


def end(var_dir: Path, state: State, names: Iterable[str]) -> None:
    """End components with their child processes, and the child processes of dead components."""
    ended = {name: state.components.pop(name) for name in names if name in state.components}
    # The API server last: the others report the end of their work to it.
    for last in (False, True):
        processes.end([one for name, one in ended.items() if (name == "api-server") is last], STOP_TIMEOUT_S)
    write_state(var_dir, state)


def run_airflow(var_dir: Path, env: dict[str, str], *arguments: str) -> None:
    """Run one of Airflow's commands to its end."""
    log = var_dir / "logs" / f"{arguments[0]}.log"
    private_folder(log.parent)
    with log.open("ab") as output:
        command = [_program(), *arguments]
        result = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    if result.returncode:
        raise AirflowError(f"`airflow {' '.join(arguments)}` failed; the end of its log:\n{processes.tail(log)}")


def _wait(client: AirflowClient, state: State, names: list[str], deadline: float) -> None:
    """Wait until components run and have reported to Airflow's database since they were started."""
    while True:
        for name in state.components.keys() - state.alive:
            log = processes.tail(Path(state.components[name].log))
            raise AirflowError(f"Airflow's {name} ended; the end of its log:\n{log}")
        try:
            health = client.health()
        except AirflowUnreachableError:
            late = ["api-server"]
        else:
            late = [
                name for name in names
                if not is_healthy(health.get(COMPONENTS[name][1], {}), state.components[name].started_at)
            ]  # fmt: skip
        if not late:
            return
        if time.monotonic() > deadline:
            logs = "\n".join(processes.tail(Path(state.components[name].log)) for name in late)
            raise AirflowError(f"not healthy in time: {', '.join(late)}; the end of the log:\n{logs}")
        time.sleep(0.5)


def is_healthy(facts: dict[str, Any], since: float) -> bool:
    """True if a component that was started at ``since`` (seconds since 1970) is healthy by Airflow's health page.

    The page also counts the last heartbeat of a predecessor for 30 s, so the heartbeat must be newer.
    """
    beats = [value for key, value in facts.items() if key.startswith("latest_")]
    fresh = all(beat and datetime.fromisoformat(beat).timestamp() >= since for beat in beats)
    return facts.get("status") == "healthy" and fresh


def _program() -> str:
    program = Path(sys.executable).parent / "airflow"
    if not program.exists():
        raise AirflowError(f"{program} does not exist; install requirements.txt into this environment (`make setup`)")
    return str(program)
