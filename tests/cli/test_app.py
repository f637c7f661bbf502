"""The command line as a whole: imports, and the commands settings and status."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from heal_tasks import __version__
from heal_tasks.cli import machine_commands
from heal_tasks.cli.app import app
from heal_tasks.cli.base import main
from heal_tasks.cli.search_commands import _json_line, print_hits
from heal_tasks.core.environment import child_environment
from heal_tasks.core.errors import AirflowError
from heal_tasks.core.settings import Settings
from heal_tasks.local.stack import Running
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.search import Hit
from heal_tasks.store.runs.run_lock import one_step
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.cli.in_process import run_main

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **variables: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=child_environment(**variables), capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip


def test_commands_load_what_they_need_when_they_run() -> None:
    # The image of Airflow's components runs `migrate` without these.
    heavy = {"torch", "openai", "sklearn", "scipy", "sentence_transformers", "matplotlib", "httpx2"}
    loaded = run("-c", "import sys, heal_tasks.cli.app; print(*{name.partition('.')[0] for name in sys.modules})")
    assert "typer" in loaded.split()
    assert not heavy & set(loaded.split())


def test_settings_are_printed_with_secrets_masked(tmp_path: Path) -> None:
    code, out, _ = run_main(
        "settings", HEAL_VAR_DIR=str(tmp_path), HEAL_LLM_API_KEY="sk-secret",
        HEAL_SOURCES="file:/a s3://b/c", HEAL_QUESTION_FILTERS="none",
    )  # fmt: skip
    lines = out.splitlines()
    assert code == 0
    for line in (
        "HEAL_LLM_API_KEY=***", "HEAL_SOURCES=file:/a s3://b/c", "HEAL_QUESTION_FILTERS=none", "HEAL_DRY_RUN=false",
        f"HEAL_VAR_DIR={tmp_path}", "HEAL_TRAIN_LEARNING_RATE=",
    ):  # fmt: skip
        assert line in lines
    assert "sk-secret" not in "".join(lines)
    assert {line.partition("=")[0] for line in lines} == {f"HEAL_{name.upper()}" for name in Settings.model_fields}


def test_status_lists_generations_and_runs(auto: Connection, settings: Settings) -> None:
    """A generation and a run count as going on only while a process works on them."""
    space, url = SpaceRepository(auto).ensure("model-x", "0", 3), settings.require_database_url()
    runs, generations = RunRepository(auto), GenerationRepository(auto)
    for run_id in ("working", "killed", "failed"):
        generations.create(run_id=run_id, space=space, nudge={"variant": "N", "theta": 0.25})
        runs.open_run(run_id)
    for run_id in ("killed", "failed"):
        runs.begin("train", "f", 0, run_id)
    runs.progress("train", "f", 0, "failed", 0, 0, "failed: out of memory")
    with one_step(url, "working", print):
        code, out, _ = run_main("status", HEAL_VAR_DIR=str(settings.var_dir), HEAL_DATABASE_URL=url)
    assert code == 0
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines()]
    states = ("1", "building"), ("2", "building, no process"), ("3", "building, no process")
    for number, state in states:
        assert [number, state, "3", "N 0.25", "", "", "model-x"] in lines
    assert ["0 documents; 0 chunks not served yet"] in lines
    assert {line[0]: line[3:] for line in lines if len(line) == 5 and line[0] in ("working", "killed", "failed")} == {
        "working": ["running", "no step has begun"],
        "killed": ["not running", "train: has begun"],
        "failed": ["not running", "train: failed: out of memory"],
    }
    assert out.startswith("postgres       down (embedded)")


def test_the_version_is_printed() -> None:
    assert run_main("--version")[:2] == (0, f"heal_tasks {__version__}\n")


@pytest.mark.parametrize(
    "command", ["demo", "demo-nudge", "watch", "up", "status", "plan", "run", "migrate", "search x"]
)
def test_every_command_warns_of_variables_that_are_no_setting(
    command: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HEAL_VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("HEAL_TRAIN_STEPS", "7")
    for module, name in ((machine_commands.stack, "up"), (machine_commands.stack, "running")):
        monkeypatch.setattr(module, name, stop)
    CliRunner().invoke(app, command.split())
    assert "HEAL_TRAIN_STEPS is set, and is no setting; did you mean HEAL_TRAIN_MAX_STEPS?" in caplog.text


def stop(*arguments: object) -> None:
    raise AirflowError("not started in this test")


def test_brackets_in_titles_and_texts_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_hits(["distance"], [Hit(1, 2, "array [odd](x)", "closes [/nothing]", 0.25, 7)])
    row = capsys.readouterr().out.splitlines()[3]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["0.250", "2", "array [odd](x)", "closes [/nothing]"]


def test_a_number_that_the_database_cannot_take_is_one_line(settings: Settings) -> None:
    code, _, errors = run_main(
        "similar", str(1 << 63), HEAL_DATABASE_URL=settings.require_database_url(), HEAL_VAR_DIR=str(settings.var_dir)
    )
    assert code == 1
    assert errors.splitlines()[-1].startswith("error: the database refused an argument: bigint out of range")
    assert "Traceback" not in errors


def test_letters_that_a_terminal_lacks_are_shown_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="latin-1") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "argv", ["heal_tasks", "settings"])
        patch.setenv("HEAL_QUERY_PROMPT", "né 漢")
        with pytest.raises(SystemExit) as ended:
            main()
        out.flush()
        printed = out.buffer.getvalue().decode("latin-1")  # type: ignore[attr-defined]
        hit = Hit(1, 2, "漢 😀", "né", 0.25, 7)._asdict()
        line = _json_line(hit)
        assert (json.loads(line.encode("latin-1")), line.isascii()) == (hit, True)
    assert ended.value.code in (0, None)
    assert "HEAL_QUERY_PROMPT=né \\u6f22" in printed


def test_an_argument_that_is_no_text_is_one_line(settings: Settings) -> None:
    environment = child_environment(
        HEAL_DATABASE_URL=settings.require_database_url(), HEAL_VAR_DIR=str(settings.var_dir)
    )
    command = [sys.executable, "-m", "heal_tasks", "report", "--run-id", b"\xff"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: an argument has bytes that are no UTF-8 text")
    assert "Traceback" not in done.stderr


def test_a_step_of_a_run_that_there_is_not_is_refused(settings: Settings) -> None:
    shell = CliRunner(env={"HEAL_DATABASE_URL": settings.require_database_url()})
    assert str(shell.invoke(app, ["label", "--run-id", "nope"]).exception).startswith("there is no run 'nope'")


def test_a_shard_that_there_is_not_is_refused(settings: Settings) -> None:
    shell = CliRunner(env={"HEAL_DATABASE_URL": settings.require_database_url()})
    refused = shell.invoke(app, ["embed", "--shard", "2", "--shards", "2"])
    assert str(refused.exception) == "--shard 2 is none of --shards 2, whose numbers are 0 to 1"
    # A step that is not sharded would be recorded as another one.
    assert shell.invoke(app, ["route", "--shards", "2"]).exit_code == 2


def test_a_report_without_any_run_is_one_sentence(settings: Settings) -> None:
    shell = CliRunner(env={"HEAL_DATABASE_URL": settings.require_database_url()})
    assert str(shell.invoke(app, ["report"]).exception).startswith("there is no run yet; start one by the DAG")
    assert str(shell.invoke(app, ["report", "--run-id", "nope"]).exception).startswith("there is no run 'nope'")


def test_the_password_of_the_interface_is_shown_to_its_owner(capsys: pytest.CaptureFixture[str]) -> None:
    client = SimpleNamespace(base_url="http://127.0.0.1:8080")
    machine_commands._print_access(Running(client, "the-password-4711", "", True))  # type: ignore[arg-type]
    assert "user: admin  password: the-password-4711\n" in capsys.readouterr().out
