"""Airflow's command line in one process that runs one command after another: its imports take longer than a command."""

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from heal_tasks.core.environment import child_environment

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Airflow:
    """An Airflow with its own small metadata database.

    Attributes:
        home: its folder, with ``airflow.db``, its logs, and ``said.txt``, all that its commands said.
        process: that runs the commands.
    """

    home: Path
    process: subprocess.Popen[str]

    @property
    def database(self) -> Path:
        return self.home / "airflow.db"

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Run a command with variables of its own; its status, and what it said and logged."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        said = self.home / "said.txt"
        begin = said.stat().st_size
        late = threading.Timer(TIMEOUT_S, self.process.kill)
        late.start()
        try:
            print(json.dumps([arguments, variables]), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        finally:
            late.cancel()
        text = said.read_bytes()[begin:].decode()
        assert answer, f"airflow {' '.join(arguments)} ended its process: {text[-3000:]}"
        return int(answer), text

    def test(self, dag_id: str, conf: Mapping[str, object] | None = None, **variables: str) -> tuple[int, str]:
        """Run a DAG, task by task."""
        return self.run("dags", "test", dag_id, *(["--conf", json.dumps(conf)] if conf else []), **variables)


@contextmanager
def started(home: Path, dags: Path, **variables: str) -> Iterator[Airflow]:
    """An Airflow with the DAGs of a folder, and with the product's plugins."""
    environment = child_environment(
        AIRFLOW_HOME=str(home),
        PYTHONPATH=str(ROOT),
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
        **variables,
    )
    command = [sys.executable, "-m", "tests.dags.airflow_commands"]
    with (home / "said.txt").open("ab") as said:
        process = subprocess.Popen(
            command, env=environment, cwd=home, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        )
    with process:
        try:
            made = Airflow(home, process)
            status, text = made.run("db", "migrate")
            assert status == 0, text[-3000:]
            yield made
        finally:
            process.kill()


def main() -> None:
    """Run the commands that come on standard input, and answer each with its status; they talk to standard error."""
    # What runs in a task must not read the commands, nor write between the answers.
    commands, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    from airflow.cli.cli_parser import get_parser

    for line in commands:
        arguments, variables = json.loads(line)
        status = 0
        with patch.dict(os.environ, variables):
            try:
                parsed = get_parser().parse_args(arguments)
                parsed.func(parsed)
            except SystemExit as ended:
                print(ended.code, file=sys.stderr)
                status = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
            except Exception:
                traceback.print_exc()
                status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        print(status, file=answers, flush=True)


if __name__ == "__main__":
    main()
