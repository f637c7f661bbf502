"""The documents agree with the code: settings, commands, links, SQL functions, views and recipes."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy
import typer.main
import yaml
from psycopg import sql

from heal_tasks import __version__
from heal_tasks.cli.app import app
from heal_tasks.cli.settings_page import markdown_page
from heal_tasks.core.settings import Settings
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.grants import VIEWS
from heal_tasks.store.spaces.spaces import SpaceRepository

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SECTIONS = dict(re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", (DOCS / "sql.md").read_text(), re.MULTILINE | re.DOTALL))


def blocks(section: str, language: str = "sql") -> list[str]:
    """The code of a section of the page about SQL."""
    return re.findall(rf"^```{language}\n(.+?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL)


READER, PIPELINE = blocks("Recipes"), blocks("Recipes of the pipeline")


def test_the_page_of_settings_is_the_generated_one() -> None:
    page = (DOCS / "settings.md").read_text()
    assert page == markdown_page(), "python -m heal_tasks settings --markdown > docs/settings.md"
    assert "| `HEAL_OBJECTIVES` | `answers topics` | Blank-separated" in page
    assert re.findall(r"`HEAL_(\w+)` \| ", page) == [name.upper() for name in Settings.model_fields]


def test_documented_settings_exist() -> None:
    known = {f"HEAL_{name.upper()}" for name in Settings.model_fields}
    for path in PAGES:
        assert set(re.findall(r"(?<!CONN_)HEAL_[A-Z0-9_]+[A-Z0-9]", path.read_text())) <= known, path.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_an_example(name: str) -> None:
    (example,) = re.findall(rf"^\| `{name}` \| .{{15,}} \| `(.+?)` \|$", (DOCS / "cli.md").read_text(), re.MULTILINE)
    assert f"python -m heal_tasks {name}" in example
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert set(re.findall(r"(?<=\s)--?[a-z-]+", example.split(name, 1)[1])) <= known
    assert COMMANDS[name].help


def test_documented_commands_exist() -> None:
    for path in PAGES:
        for name in re.findall(r"python -m heal_tasks (?:--corpus \w+ )?([a-z_-]+)", path.read_text()):
            assert name in COMMANDS, f"{path.name}: {name}"


def test_links_lead_somewhere() -> None:
    for path in (*PAGES, ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_architecture_page_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    where = page.partition("## Where is")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_/*0-9.]+\.(?:py|sql))`", where))
    assert len(named) > 15
    assert not [path for path in named if not list((ROOT / "heal_tasks").glob(path))]


def test_every_function_and_view_for_users_is_documented() -> None:
    text = (DOCS / "sql.md").read_text()
    api = "".join(path.read_text() for path in sorted((ROOT / "heal_tasks" / "store" / "sql").glob("api*.sql")))
    names = re.findall(r"CREATE OR REPLACE (?:FUNCTION|PROCEDURE|VIEW) (heal\.\w+)", api)
    assert {"heal.search", "heal.similar", "heal.activate", "heal.lineage"} <= set(names)
    # Whole names: heal.search is in heal.search_many.
    assert [name for name in names if not re.search(rf"{re.escape(name)}\b", text)] == []
    assert set(re.findall(r"HEA\d\d", api)) == set(re.findall(r"HEA\d\d", text))


def test_view_columns_are_those_of_the_database(module_database_url: str) -> None:
    rows = re.findall(r"^\| `heal\.(\w+)` \| .+? \| (.+) \|$", (DOCS / "sql.md").read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == {*VIEWS, "question_state"}
    with connect(module_database_url) as conn:
        for view, columns in rows:
            query = sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier("heal", view))
            assert [column.name for column in conn.execute(query).description or []] == columns.split(", ")


@pytest.fixture(scope="module")
def seeded(module_database_url: str) -> str:
    """A database with two documents in two topics, and an active and a previous generation of three dimensions."""
    with connect(module_database_url, autocommit=True) as conn:
        for number in (1, 2):
            conn.execute(
                "INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash) "
                "VALUES (%(n)s, 'file:inbox', %(n)s::text, 'a.jsonl', 'Title ' || %(n)s, 'Body', %(n)s::text)",
                {"n": number},
            )
            conn.execute(
                "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) "
                "VALUES (%s, %s, 0, 'Text', '')",
                (number * 10, number),
            )
        row = conn.execute(
            "INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual) "
            "VALUES ('f', 'u', 2, 2, 2, 1, 0.5) RETURNING topic_run_id"
        ).fetchone()
        assert row is not None
        for topic, leaf in ((1, 0), (2, 1)):
            conn.execute(
                "INSERT INTO heal.topic (topic_run_id, topic_id, level, first_leaf, last_leaf, terms, k, size) "
                "VALUES (%s, %s, 1, %s, %s, ARRAY['one', 'two'], 1, 1)",
                (row[0], topic, leaf, leaf),
            )
            conn.execute(
                "INSERT INTO heal.document_topic VALUES (%s, %s, %s, ARRAY[%s], 1, 0.5, false)",
                (row[0], topic, leaf, topic),
            )
        generations, space = GenerationRepository(conn), SpaceRepository(conn).ensure("model", "0", 3)
        for _ in range(2):
            made = generations.create(run_id="run", space=space, topic_run_id=row[0], lexicon=LexiconRecord().to_json())
            generations.create_tables(made)
            conn.execute(
                sql.SQL("INSERT INTO {} VALUES (10, 1, 0, '[1,0,0]'), (20, 2, 1, '[0,1,0]')").format(made.table("vec"))
            )
            conn.execute(
                sql.SQL("INSERT INTO {} VALUES ('english', 'text', 2, 0.7, '[1,1,0]')").format(made.table("lex"))
            )
            generations.set_state(made.generation_id, "ready")
            generations.activate(made.generation_id, lock_timeout_ms=1000)
    return module_database_url


def active(conn: Connection) -> int:
    row = conn.execute("SELECT generation_id FROM heal.generation WHERE state = 'active'").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
def member(seeded: str) -> Iterator[dict[str, str]]:
    """URLs of the database as a member of ``heal_reader`` and of ``heal_pipeline``."""
    urls = {}
    with connect(seeded, autocommit=True) as conn:
        for role in ("heal_reader", "heal_pipeline"):
            conn.execute(f"CREATE ROLE docs_{role} LOGIN PASSWORD 'x' IN ROLE {role}".encode())
            urls[role] = f"postgresql://docs_{role}:x@{seeded.split('@')[1]}"
        yield urls
        for role in urls:
            conn.execute(f"DROP OWNED BY docs_{role}; DROP ROLE docs_{role}".encode())


@pytest.mark.parametrize("recipe", READER, ids=range(len(READER)))
def test_recipes_run_as_a_reader(recipe: str, member: dict[str, str]) -> None:
    with connect(member["heal_reader"]) as conn:
        rows = conn.execute(recipe.encode()).fetchall()
        if "heal.find" in recipe or ("distance" in recipe and "< 0.05" not in recipe):
            assert rows or "relevance >" in recipe, "a search recipe that finds nothing shows nothing"


@pytest.mark.parametrize("recipe", PIPELINE, ids=range(len(PIPELINE)))
def test_recipes_of_the_pipeline_run(recipe: str, member: dict[str, str]) -> None:
    with connect(member["heal_pipeline"]) as conn:
        before = active(conn)
        conn.execute(recipe.encode())
        assert (active(conn) != before) == ("heal.activate" in recipe)
        conn.rollback()  # the database is shared


def test_recipes_about_rights_run(seeded: str) -> None:
    with connect(seeded) as conn:
        for recipe in blocks("Rights"):
            conn.execute(recipe.replace("DATABASE heal", f"DATABASE {conn.info.dbname}").encode())
        conn.rollback()


def test_recipes_about_readers_run(seeded: str) -> None:
    recipes = re.findall(r"^```sql\n(.+?)^```", (DOCS / "permissions.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(recipes) == 3
    with connect(seeded) as conn:
        conn.execute("SET heal.principals = 'alice'")
        for recipe, wanted in zip(recipes, (["role:heal_owner"], ["alice"], ["alice"]), strict=True):
            conn.execute("SET ROLE heal_owner")
            conn.execute(recipe.encode())
            ((found,),) = conn.execute("SELECT heal.principals()").fetchall()
            assert set(wanted) <= set(found)
            assert ("alice" in found) == ("alice" in wanted)
        conn.rollback()  # the database is shared


def test_recipes_run_in_psql(postgres: EmbeddedPostgres, member: dict[str, str]) -> None:
    command = [str(postgres.bin("psql")), member["heal_reader"], "-X", "-v", "ON_ERROR_STOP=1"]
    done = subprocess.run(command, input="\n".join(READER), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\(\d+ rows?\)$", done.stdout, re.MULTILINE)) == len(READER)


def test_recipes_run_in_sqlalchemy(member: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sqlalchemy.create_engine(member["heal_reader"].replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as conn:
        for recipe in READER:
            conn.execute(sqlalchemy.text(recipe))
        generation = conn.execute(sqlalchemy.text("SELECT DISTINCT generation_id FROM heal.embedding")).scalar_one()
    engine.dispose()
    monkeypatch.setenv("HEAL_DATABASE_URL", member["heal_reader"])
    with connect(member["heal_reader"]) as conn:
        known = {"conn": conn, "vector": np.array([1, 0, 0]), "generation_id": generation}
        for recipe in blocks("Recipes", "python"):
            names: dict[str, object] = {"__name__": "recipe", **known}
            exec(recipe, names)
            assert len(names["rows"]) == 2  # type: ignore[arg-type]


def test_conditions_of_the_page_are_predicates(seeded: str) -> None:
    page = SECTIONS["Functions and procedures"].partition("### Conditions")[2].partition("### Pages")[0]
    conditions = re.findall(r"^    (\$.+)$", page, re.MULTILINE)
    assert len(conditions) >= 4
    with connect(seeded) as conn:
        for condition in conditions:
            conn.execute("SELECT heal.checked_condition(%s)", (condition,))


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (latest, *_) = re.findall(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project["version"] == __version__ == latest


def test_values_for_kubernetes_name_what_the_chart_has() -> None:
    """The top level of the examples; the chart's own schema closes it, so another name would be an error."""
    examples = re.findall(r"^```yaml\n(.+?)^```", (DOCS / "deploy.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        values = yaml.safe_load(example)
        assert values.keys() <= {"executor", "airflowVersion", "images", "env", "extraEnvFrom", "workers"}
        assert yaml.safe_load(values["extraEnvFrom"]) == [{"secretRef": {"name": "heal-connections"}}]
        assert all(set(item) == {"name", "value"} and isinstance(item["value"], str) for item in values["env"])
