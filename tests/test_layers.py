"""The house's rules: who may import whom, and what never enters a DAG file or a light module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = {
    "core": 0, "__init__": 0,
    "sources": 1, "topics": 1, "questions": 1, "training": 1, "nudge": 1, "evaluation": 1, "store": 1,
    "report": 2,
    "steps": 3,
    "local": 4, "serve": 4,
    "cli": 5, "__main__": 5,
}  # fmt: skip
PURE = ("topics", "training", "nudge", "evaluation")
HEAVY = {"torch", "numpy", "psycopg", "openai", "boto3", "sklearn", "sentence_transformers", "transformers", "scipy"}
MAX_LINES = 400


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", python_files("heal_tasks"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports(path):
        assert module.split(".")[0] != "airflow", f"{path} imports {module}; heal_tasks never imports Airflow"
        if not module.startswith("heal_tasks.") or room(module) == own or room(module) not in FLOOR:
            continue
        other = room(module)
        assert FLOOR[other] <= FLOOR[own], f"{path} imports {module}, which is upstairs"
        if FLOOR[own] == FLOOR[other] == 1:
            pytest.fail(f"{path} imports {module}; rooms of one floor do not import each other")
        if own in PURE:
            assert module.split(".")[2:3] != ["settings"], f"{path} takes settings; a pure room takes arguments"


@pytest.mark.parametrize("path", python_files("dags", "plugins"), ids=lambda path: path.name)
def test_dags_and_plugins_are_light(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {
        name.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert not top & HEAVY
    if path.parent.name == "dags":
        assert not {name.split(".")[0] for name in imports(path)} & HEAVY


@pytest.mark.parametrize(
    "path", python_files("heal_tasks", "dags", "plugins", "tests", "bench"), ids=lambda path: path.name
)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", python_files("heal_tasks", "dags", "plugins"), ids=lambda path: path.name)
def test_environment_is_read_in_one_place(path: Path) -> None:
    if path.name != "settings.py":
        assert "os.environ" not in path.read_text(encoding="utf-8")
        assert "getenv" not in path.read_text(encoding="utf-8")


def test_a_step_that_only_moves_rows_does_not_load_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from heal_tasks.steps.engine.road import load_step; "
        "[load_step(name) for name in ('ingest', 'route', 'promote', 'report')]; "
        "print(sorted(set(sys.modules) & {'torch', 'sentence_transformers', 'airflow'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
