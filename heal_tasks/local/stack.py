"""The whole system on one machine: start, status and stop of Postgres and of Airflow's four components.

The components are started one by one, not by ``airflow standalone``: SIGTERM leaves eleven orphans of that behind, and
it does not notice when a component dies (measured with Airflow 3.3.2).
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal_tasks.core.environment import child_environment
from heal_tasks.core.errors import AirflowError
from heal_tasks.core.files import private_folder
from heal_tasks.core.ids import fingerprint
from heal_tasks.core.settings import Settings
from heal_tasks.local import components
from heal_tasks.local.airflow_client import AirflowClient
from heal_tasks.local.components import COMPONENTS, read_state
from heal_tasks.local.databases import (
    Say,
    embedded_server,
    prepare_vectors,
    stack_lock,
    start_server,
    vector_database,
)
from heal_tasks.local.environment import REPOSITORY, UI_USER, airflow_settings, load_keys

SCHEDULED = {
    "heal_realign": "its runs do not start, neither at night nor when they are triggered",
    "heal_maintain": "nothing is cleaned up or measured at night",
}
"""DAGs with a schedule, and the effect of pausing each."""


@dataclass(frozen=True)
class Running:
    """Airflow and the vector database of a running stack."""

    client: AirflowClient
    password: str  # of the UI's user
    database_url: str
    embedded: bool  # the vector database is in the embedded server


@dataclass(frozen=True)
class Status:
    """State of every part of the stack."""

    postgres: bool  # the embedded server answers
    components: dict[str, str]  # by name: down, or up with the status on Airflow's health page
    base_url: str | None  # of the UI; None if it was never started here
    paused: list[str]  # a sentence for each paused DAG

    @property
    def healthy(self) -> bool:
        """True if everything runs."""
        return self.postgres and set(self.components.values()) == {"up, healthy"}

    def lines(self) -> list[str]:
        """One line of text per part."""
        parts = {
            "postgres": f"{'up' if self.postgres else 'down'} (embedded)",
            **self.components,
            "UI": self.base_url or "never started here; run `make up`",
        }
        return [*(f"{name:<14} {text}" for name, text in parts.items()), *self.paused]


def up(
    settings: Settings, say: Say = lambda message: None, dags: Path = REPOSITORY / "dags", only_revive: bool = False
) -> Running:
    """Start the parts that do not run, and return when all are healthy; ``say`` receives a line per action.

    Vectors go into ``database_url`` where that names a server of the user's own. With ``only_revive`` dead components
    are restarted, but a stack that ``down`` has stopped is an AirflowError.
    """
    var_dir = settings.var_dir
    for name in ("inbox", "logs", "airflow"):
        private_folder(var_dir / name)
    with stack_lock(settings, say):
        if only_revive and not read_state(var_dir).components:
            raise AirflowError(
                "Airflow was stopped meanwhile; after `make up` its runs go on, and `make watch` shows them"
            )
        metadata_url = start_server(settings, say).ensure_database("airflow")
        database_url, embedded = prepare_vectors(settings, say)
        keys, state = load_keys(var_dir), read_state(var_dir)
        if "api-server" not in state.alive:
            components.choose_port(settings.airflow_port, state)
        client = AirflowClient(state.base_url, UI_USER, keys.ui_password)
        variables = airflow_settings(settings, keys, state.port, metadata_url, database_url, dags)
        if state.alive and fingerprint(variables) != state.environment:
            active: list[str] = []
            with contextlib.suppress(AirflowError):  # without an answer there is no run to interrupt
                active = client.active_runs()
            changed = "settings have changed since Airflow was started"
            if active:
                say(f"{changed}; after run {active[0]}, `make down up` applies them")
            else:
                say(f"{changed}; restarting it")
                components.end(var_dir, state, COMPONENTS)
        missing = tuple(name for name in COMPONENTS if name not in state.alive)
        env = child_environment(**variables)
        if missing:
            # Orphans of a dead component would compete with its successor.
            components.end(var_dir, state, missing)
            if len(missing) == len(COMPONENTS):
                say("preparing Airflow's database (some seconds)")
                components.run_airflow(var_dir, env, "db", "migrate")
                state.environment = fingerprint(variables)
            say(f"starting Airflow's {', '.join(missing)}")
        try:
            components.start(var_dir, state, missing, env, client)
            client.ensure_pool(settings.gpu_pool, 1, "One task at a time on the GPU")
        except AirflowError:
            components.end(var_dir, state, missing)
            raise
    say(f"Airflow is up{'' if missing else ' already'}: {state.base_url}")
    return Running(client, keys.ui_password, database_url, embedded)


def down(settings: Settings, say: Say = lambda message: None) -> None:
    """Stop Airflow's components and the embedded Postgres; works from any process, and on half a stack."""
    if not settings.var_dir.exists():
        say(f"nothing has been started in {settings.var_dir}")
        return
    with stack_lock(settings, say):
        state = read_state(settings.var_dir)
        if state.components:
            say("stopping Airflow (up to 40 seconds; a running task gets 20 to finish, and is resumed by `make up`)")
            components.end(settings.var_dir, state, COMPONENTS)
        say("stopping the embedded Postgres")
        embedded_server(settings).stop()
    say("everything is stopped; the data stays, `make up` brings it back")


def status(settings: Settings) -> Status:
    """State of every part, without changing anything."""
    state = read_state(settings.machine_dir)
    alive, health, stopped = state.alive, dict[str, dict[str, Any]](), list[str]()
    if "api-server" in alive:
        with contextlib.suppress(AirflowError):
            client = AirflowClient(state.base_url, UI_USER, load_keys(settings.machine_dir).ui_password, timeout_s=5)
            health = client.health()
            stopped = paused(client)
    parts = {
        name: f"up, {health.get(page_name, {}).get('status', 'no answer')}" if name in alive else "down"
        for name, (_, page_name) in COMPONENTS.items()
    }
    return Status(embedded_server(settings).running(), parts, state.base_url if state.port else None, stopped)


def paused(client: AirflowClient) -> list[str]:
    """A sentence for each DAG with a schedule that is paused."""
    return [
        f"{dag_id} is paused: {effect}. Unpause it by its switch at {client.base_url}"
        for dag_id, effect in SCHEDULED.items()
        if client.is_paused(dag_id)
    ]


def running(settings: Settings) -> Running:
    """The stack that runs already; AirflowError if its API server does not."""
    state = read_state(settings.var_dir)
    if "api-server" not in state.alive:
        raise AirflowError(f"Airflow does not run with the state in {settings.var_dir}; run `make up`")
    database_url, embedded = vector_database(settings)
    password = load_keys(settings.var_dir).ui_password
    return Running(AirflowClient(state.base_url, UI_USER, password), password, database_url, embedded)
