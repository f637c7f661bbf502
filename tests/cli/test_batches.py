"""``python -m heal_tasks batches``: batches under way, and what cannot be cancelled."""

import sys
from collections.abc import Callable

import pytest

from heal_tasks.cli.app import main
from heal_tasks.core.settings import Settings
from heal_tasks.store.db import Connection
from heal_tasks.store.llm.batches import Batch, BatchRepository
from heal_tasks.store.runs.runs import RunRepository

ENDPOINT = "http://127.0.0.1:1/v1"


@pytest.fixture
def batches(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
        monkeypatch.setenv("HEAL_VAR_DIR", str(settings.var_dir))
        monkeypatch.setenv("HEAL_LLM_BASE_URL", ENDPOINT)
        monkeypatch.setattr(sys, "argv", ["heal_tasks", "batches", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


def test_none_is_under_way(batches: Callable[..., tuple[int, str, str]]) -> None:
    assert batches() == (0, f"no batch is under way at {ENDPOINT}\n", "")
    assert batches("--cancel", "b7") == (1, "", f"error: no batch 'b7' is under way at {ENDPOINT}; under way: -")


def test_a_planned_batch_is_listed_without_asking_the_endpoint(
    auto: Connection, batches: Callable[..., tuple[int, str, str]]
) -> None:
    RunRepository(auto).open_run("night 7")
    BatchRepository(auto, ENDPOINT).plan(Batch("key-1", "night 7", 1, "gpt", "p"), [("hash", 10)])
    code, out, _ = batches()
    assert code == 0
    (row,) = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert row == ["key-1", "night 7", "1", "1", "", "", "planned", ""]


def test_batches_of_texts_to_embed_are_listed_beside_those_of_questions(
    auto: Connection, batches: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEAL_MODEL", "openai:small")
    monkeypatch.setenv("HEAL_EMBED_BASE_URL", ENDPOINT)
    assert batches()[1] == f"no batch is under way at {ENDPOINT} or {ENDPOINT}/embeddings\n"
    for number, endpoint in enumerate((ENDPOINT, f"{ENDPOINT}/embeddings")):
        BatchRepository(auto, endpoint).plan(Batch(f"key-{number}", "night 7", 0, "small", "p"), [("hash", 10)])
    out = batches()[1]
    assert "key-0" in out
    assert "key-1" in out
