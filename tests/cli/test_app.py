"""The command line as a whole: what it loads, and the settings command."""

import subprocess
import sys
from pathlib import Path

from heal_tasks.core.settings import child_environment

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
    lines = run(
        "-m", "heal_tasks", "settings", HEAL_VAR_DIR=str(tmp_path), HEAL_LLM_API_KEY="sk-secret",
        HEAL_SOURCES="file:/a s3://b/c", HEAL_QUESTION_FILTERS="none",
    ).splitlines()  # fmt: skip
    for line in (
        "HEAL_LLM_API_KEY=***", "HEAL_SOURCES=file:/a s3://b/c", "HEAL_QUESTION_FILTERS=", "HEAL_DRY_RUN=false",
        f"HEAL_VAR_DIR={tmp_path}", "HEAL_TRAIN_LEARNING_RATE=",
    ):  # fmt: skip
        assert line in lines
    assert "sk-secret" not in "".join(lines)
