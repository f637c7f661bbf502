"""The rules of the code: imports run downwards, pure packages stay pure, DAG files stay light, files stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = {
    "core": 0, "endpoint": 0, "__init__": 0,
    "sources": 1, "topics": 1, "questions": 1, "training": 1, "nudge": 1, "lexicon": 1, "bridge": 1, "evaluation": 1,
    "store": 1,
    "report": 2,
    "steps": 3,
    "local": 4, "client": 4, "serve": 4,
    "cli": 5, "__main__": 5,
}  # fmt: skip
PURE = ("topics", "training", "nudge", "lexicon", "bridge", "evaluation")
READ_AND_WRITE_FILES = {
    "topics/tree.py",
    "training/checkpoints.py",
    "training/encoder.py",
    "training/trainer.py",
}
IMPURE = {"pathlib", "shutil", "os", "io", "tempfile", "time", "datetime", "psycopg", "sqlite3", "requests", "httpx2"}
OPENS = {"open", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir", "unlink", "save_file", "load_file"}
SHARED_BY_STEPS = {"adopting", "engine", "quality", "reading", "vectors", "writing"}
HEAVY = {"torch", "numpy", "psycopg", "openai", "boto3", "sklearn", "sentence_transformers", "transformers", "scipy"}
MAX_LINES = 300


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
        assert FLOOR[other] <= FLOOR[own], f"{path} imports {module}, which is in a higher layer"
        if FLOOR[own] == FLOOR[other] == 1:
            pytest.fail(f"{path} imports {module}; packages of layer 1 do not import each other")


def pure_files() -> list[Path]:
    return [path for room in PURE for path in python_files(f"heal_tasks/{room}")]


@pytest.mark.parametrize("path", pure_files(), ids=lambda path: str(path.relative_to(ROOT / "heal_tasks")))
def test_pure_rooms_take_arguments_only(path: Path) -> None:
    """No settings, database, clock or environment; files only in the modules that read and write models and trees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {module.split(".")[0] for module in imports(path)}
    called = {node.id if isinstance(node, ast.Name) else node.attr for node in ast.walk(tree)
              if isinstance(node, ast.Name | ast.Attribute)}  # fmt: skip
    forbidden, opened = imported & IMPURE, called & OPENS
    if str(path.relative_to(ROOT / "heal_tasks")) in READ_AND_WRITE_FILES:
        forbidden, opened = forbidden - {"pathlib", "shutil", "os"}, set()
    assert not forbidden, f"{path} imports {forbidden}"
    assert not opened, f"{path} uses {opened}"
    assert not any(module.startswith("heal_tasks.core.settings") for module in imports(path))


@pytest.mark.parametrize("path", sorted((ROOT / "heal_tasks" / "steps").glob("*.py")), ids=lambda path: path.name)
def test_a_file_in_steps_is_one_step(path: Path) -> None:
    """``NAME.py`` makes one ``Step`` called NAME; parts that several steps share are in the sub-folders."""
    if path.name == "__init__.py":
        return
    made = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name) and node.value.func.id == "Step"
    ]  # fmt: skip
    assert [[target.id for target in node.targets if isinstance(target, ast.Name)] for node in made] == [
        [path.stem.upper()]
    ]
    assert [ast.literal_eval(node.value.args[0]) for node in made if isinstance(node.value, ast.Call)] == [path.stem]


def test_the_table_of_the_road_names_every_step() -> None:
    from heal_tasks.steps.engine.road import STEPS, load_step

    folder = ROOT / "heal_tasks" / "steps"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == STEPS.keys()
    assert {path.name for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"} == SHARED_BY_STEPS
    assert all(load_step(name).name == name for name in STEPS)


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
    if path.name not in ("settings.py", "environment.py"):
        assert "os.environ" not in path.read_text(encoding="utf-8")
        assert "getenv" not in path.read_text(encoding="utf-8")


def test_a_step_without_a_model_in_files_does_not_load_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from heal_tasks.steps.engine.road import load_step; "
        "[load_step(name) for name in ('ingest', 'route', 'activate', 'report', 'sift', 'embed')]; "
        "print(sorted(set(sys.modules) & {'torch', 'sentence_transformers', 'airflow'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
