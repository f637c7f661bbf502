"""The examples of docs/serving.md, run as they are against the service."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.core.settings import Settings
from tests.serve.conftest import Running
from tests.serve.published import TEXTS

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"^```python\n(.+?)^```", (ROOT / "docs" / "serving.md").read_text(), re.MULTILINE | re.DOTALL)


def run(example: str, url: str, settings: Settings) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", example.replace("http://127.0.0.1:8090", url)],
        env=child_environment(HEAL_DATABASE_URL=settings.require_database_url()),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_client_of_openai(service: Running, module_settings: Settings) -> None:
    assert run(EXAMPLES[0], service.url, module_settings) == ["heal-g000002 384"]


def test_langchain_with_search_in_sql(service: Running, module_settings: Settings) -> None:
    pytest.importorskip("langchain_openai")
    lines = run(EXAMPLES[1], service.url, module_settings)
    assert len(lines) == 3
    assert lines[0].endswith(TEXTS[2])


def test_llama_index(service: Running, module_settings: Settings) -> None:
    pytest.importorskip("llama_index.embeddings.openai")
    assert run(EXAMPLES[2], service.url, module_settings) == ["384", "384"]


def test_the_python_client(service: Running, module_settings: Settings) -> None:
    lines = run(EXAMPLES[3], service.url, module_settings)
    assert lines[0].startswith("2 ")
    assert lines[0].endswith(TEXTS[2])
    assert len(EXAMPLES) == 4
