"""``python -m heal_tasks topics``, over a tree that the real step built."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from heal_tasks.cli.app import main
from heal_tasks.core.settings import Settings
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.topics import Labels, TopicRepository, TopicRow
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.steps.conftest import Built, built, shared

# Fixtures of another package, which pytest finds by their names here.
__all__ = ["built", "shared"]

Command = Callable[..., tuple[int, str, str]]
NOTHING = np.array([])
NO_LABELS = Labels(NOTHING.astype(np.int64), NOTHING.astype(np.int32), [], NOTHING, NOTHING)
LINE = re.compile(r"(?P<indent> *)(?P<id>\d+): (?P<size>\d+) documents \((?P<share>\d+)%\)(?P<rest>.*)")


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command: exit code, standard output, standard error."""

    def run(settings: Settings, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
        monkeypatch.setenv("HEAL_VAR_DIR", str(settings.var_dir))
        monkeypatch.setattr(sys, "argv", ["heal_tasks", "topics", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def insert(conn: Connection, uri: str, fingerprint: str = "other") -> int:
    return TopicRepository(conn).insert_run(
        fingerprint=fingerprint, uri=uri, churn=0.25, mean_residual=0.5, labels=NO_LABELS,
        topics=[TopicRow(0, None, 0, 0, 0, ["lone", "[word]"], 1, None, 7, "7 documents")],
    )  # fmt: skip


def test_every_topic_is_one_line_in_tree_order(built: Built, shared: Connection, topics: Command) -> None:
    code, out, _ = topics(built.settings)
    assert code == 0
    head, *lines = out.splitlines()
    tree, run = built.tree, built.tree.run
    assert re.fullmatch(
        rf"topic run {run.topic_run_id}, not of a live generation, made 20\d\d-\d\d-\d\d \d\d:\d\d "
        rf"from {run.documents} documents: {run.leaves} leaves, depth 2",
        head,
    )
    assert len(lines) == len(tree.rows) > 6
    for line, row in zip(lines, tree.rows, strict=True):
        found = LINE.fullmatch(line)
        assert found, line
        assert len(found["indent"]) == 2 * row.level
        assert (int(found["id"]), int(found["size"])) == (row.topic_id, row.size)
        assert int(found["share"]) == round(100 * row.size / tree.root.size)
        words = ", ".join(row.terms[:6])
        if tree.children[row.topic_id]:
            assert found["rest"] == f", k={row.k}, silhouette {row.silhouette:.2f}: {words}"
        else:
            assert found["rest"] == f": {words} (leaf: {row.stop_reason})"


def test_a_depth_cuts_and_says_what_it_hides(built: Built, shared: Connection, topics: Command) -> None:
    _, out, _ = topics(built.settings, "--depth", "1")
    lines = out.splitlines()[1:]
    assert len(lines) == 1 + built.tree.root.k
    hidden = sum(int(number) for number in re.findall(r"\((\d+) topics below\)$", out, re.MULTILINE))
    assert hidden == len(built.tree.rows) - len(lines) > 0


def test_a_terminal_gets_guides(
    built: Built, shared: Connection, topics: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, color_system=None, width=300)
    monkeypatch.setattr("heal_tasks.cli.topics.console", terminal)
    topics(built.settings)
    assert len(re.findall(r"^(?:│   |    )?[├└]── \d+: ", out.getvalue(), re.MULTILINE)) == len(built.tree.rows) - 1


def test_the_selection_has_a_row_per_k(built: Built, shared: Connection, topics: Command) -> None:
    code, out, _ = topics(built.settings, "--selection")
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [int(row[0]) for row in rows] == [record.k for record in built.records]
    (chosen,) = [row for row in rows if row[-1] == "chosen"]
    (record,) = [record for record in built.records if record.k == built.tree.root.k]
    assert chosen[1:6] == [
        f"{record.relative_error:.4f}", f"{record.drop_ratio:.2f}", f"{record.null_ratio:.2f}",
        f"{record.term_silhouette:.2f}", f"{record.document_silhouette:.2f}",
    ]  # fmt: skip


def test_the_tree_is_printed_though_its_files_are_gone(built: Built, shared: Connection, topics: Command) -> None:
    run = insert(shared, f"{built.settings.artifacts_uri}/gone")
    code, out, said = topics(built.settings, "--run", str(run), "--selection")
    assert code == 1
    head, line = out.splitlines()
    assert head.endswith("depth 0, churn 25% to the tree before")
    assert line == "0: 7 documents (100%): lone, [word] (leaf: 7 documents)"
    assert re.fullmatch(
        r"error: how the root's k was chosen cannot be shown: artifact .*/gone is missing or incomplete.*\n", said
    )


def test_a_root_where_no_number_of_topics_was_tried(built: Built, shared: Connection, topics: Command) -> None:
    folder = Path(built.settings.artifacts_uri) / "small"
    shutil.copytree(built.tree.run.uri, folder)
    content = json.loads((folder / "tree.json").read_text())
    content["selection"] = {}
    (folder / "tree.json").write_text(json.dumps(content))
    code, out, _ = topics(built.settings, "--run", str(insert(shared, str(folder))), "--selection")
    assert code == 0
    assert out.endswith("no number of topics was tried at the root: 7 documents\n")


def test_the_active_generations_tree_comes_before_a_newer_one(
    built: Built, shared: Connection, topics: Command
) -> None:
    newer = insert(shared, "/nowhere")
    assert topics(built.settings)[1].startswith(f"topic run {newer}, not of a live generation")
    generations = GenerationRepository(shared)
    space = SpaceRepository(shared).ensure("m", "s", 2)
    made = generations.create(run_id="r", space=space, topic_run_id=built.tree.run.topic_run_id)
    generations.create_tables(made)
    generations.set_state(made.generation_id, "ready")
    generations.activate(made.generation_id, lock_timeout_ms=1000)
    expected = f"topic run {built.tree.run.topic_run_id}, of the live generation {made.generation_id}, "
    assert topics(built.settings)[1].startswith(expected)
    assert topics(built.settings, "--run", str(newer))[1].startswith(f"topic run {newer}, not of a live")


def test_an_unknown_topic_run(built: Built, shared: Connection, topics: Command) -> None:
    code, out, error = topics(built.settings, "--run", "77")
    assert (code, out) == (1, "")
    assert " ".join(error.split()) == "error: there is no topic run 77; SELECT * FROM heal.topic_run lists them"


def test_before_there_is_any_topic_run(settings: Settings, topics: Command) -> None:
    code, out, error = topics(settings)
    assert (code, out) == (1, "")
    expected = "error: there is no topic run yet; run the heal_realign DAG, or `python -m heal_tasks run`"
    assert " ".join(error.split()) == expected
