"""The file sources.toml: what its tables choose and map, and the errors of wrong ones."""

import json
from pathlib import Path

import pytest

from heal_tasks.core.environment import secret_variable
from heal_tasks.core.errors import SettingsError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.redaction import redacted
from heal_tasks.core.settings import load_settings, load_usable_settings
from heal_tasks.core.source_tables import Fields, read_source_tables
from heal_tasks.sources.base import open_source
from heal_tasks.sources.patterns import is_chosen
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection

FOLDER = """
["My Folder"]
kind = "folder"
location = "{root}/My Folder"
include = ["*.jsonl", "manuals/**"]
exclude = ["**/draft-*"]
fields.key = "No"
fields.text = ["Question", "Answer"]
fields.title = "Subject"
fields.metadata = ["product"]
fields.updated_at = "changed"
metadata = {{ team = "support", since = 2024-05-01 }}
language = "de"
acl = ["group:support"]
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a folder of documents and its table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEAL_SOURCES", raising=False)
    folder = tmp_path / "My Folder"
    (folder / "manuals").mkdir(parents=True)
    rows = [
        {
            "no": 1,
            "question": "Wie?",
            "answer": "So.",
            "subject": "Valve",
            "product": "V1",
            "price": 3,
            "changed": "d",
        },
        {"no": 2, "question": "Was?", "answer": None, "team": "sales"},
        {"no": 3, "question": "", "answer": ""},
    ]
    (folder / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "manuals" / "pump.txt").write_text("Die Pumpen sind gut.")
    (folder / "manuals" / "draft-1.txt").write_text("Not yet.")
    (folder / "notes.txt").write_text("Not chosen.")
    (tmp_path / "sources.toml").write_text(FOLDER.format(root=tmp_path))
    return tmp_path


def write(root: Path, text: str) -> None:
    (root / "sources.toml").write_text(text)


def test_a_table_chooses_files_and_maps_fields(root: Path, database_url: str, auto: Connection) -> None:
    settings = load_settings(var_dir=root / "var", database_url=database_url)
    assert settings.sources == ("source:My Folder",)
    made = load_step("ingest").run(settings, Manifest(run_id="r"))
    assert made.counts["rejected"] == 1
    rows = auto.execute(
        "SELECT external_id, title, body, metadata, language, source FROM heal.document ORDER BY 1"
    ).fetchall()
    shared = {"team": "support", "since": "2024-05-01"}
    assert rows == [
        ("1", "Valve", "Wie?\n\nSo.", {"product": "V1", "updated_at": "d", **shared}, "german", "source:My Folder"),
        ("2", "", "Was?", shared, "german", "source:My Folder"),
        ("manuals/pump.txt", "pump", "Die Pumpen sind gut.", shared, "german", "source:My Folder"),
    ]
    assert settings.source_tables["My Folder"].rule.acl == ("group:support",)
    assert auto.execute("SELECT DISTINCT acl FROM heal.document").fetchall() == [(["group:support"],)]


def test_another_list_of_readers_in_the_table_keeps_chunks_and_those_of_records_win(
    root: Path, database_url: str, auto: Connection
) -> None:
    text = FOLDER.format(root=root)
    rows = [{"no": 1, "question": "Wie?", "ACL": ["ann"]}, {"no": 2, "question": "Was?", "acl": None}]
    (root / "My Folder" / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(name: str, acl: str) -> dict[str, float]:
        write(root, text.replace('acl = ["group:support"]', acl))
        settings = load_settings(var_dir=root / "var", database_url=database_url)
        return dict(load_step("ingest").run(settings, Manifest(run_id=name)).counts)

    def state() -> tuple[object, ...]:
        names = auto.execute("SELECT external_id, acl FROM heal.document ORDER BY 1").fetchall()
        return dict(names), auto.execute("SELECT chunk_id FROM heal.chunk WHERE superseded_at IS NULL").fetchall()

    run("first", 'acl = ["b", " a ", "b"]')
    _, chunks = state()
    for number, (acl, readers) in enumerate(
        [('acl = ["b", "a"]', ["a", "b"]), ("acl = []", []), ("", None), ('acl = ["c"]', ["c"])]
    ):
        made = run(f"run {number}", acl)
        assert state() == ({"1": ["ann"], "2": readers, "manuals/pump.txt": readers}, chunks)
        assert (made["new"], made["changed"], made["chunks_added"], made["chunks_superseded"]) == (0, 0, 0, 0)


def test_a_changed_rule_reads_every_file_again_and_a_changed_location_none(
    root: Path, database_url: str, auto: Connection
) -> None:
    def run(name: str) -> dict[str, float]:
        settings = load_settings(var_dir=root / "var", database_url=database_url)
        return dict(load_step("ingest").run(settings, Manifest(run_id=name)).counts)

    assert run("first")["new"] == 3
    (root / "My Folder").rename(root / "moved")
    write(root, FOLDER.format(root=root).replace("/My Folder", "/moved"))
    again = run("second")
    assert (again["new"], again["changed"], again["deleted"]) == (0, 0, 0)
    write(root, FOLDER.format(root=root).replace("/My Folder", "/moved").replace("support", "service"))
    assert run("third")["changed"] == 0  # the text is the same
    teams = auto.execute("SELECT DISTINCT metadata->>'team' FROM heal.document").fetchall()
    assert teams == [("service",)]


def test_a_renamed_table_is_a_new_source_and_two_statements_keep_its_documents(
    root: Path, database_url: str, auto: Connection
) -> None:
    def run(name: str) -> dict[str, float]:
        settings = load_settings(var_dir=root / "var", database_url=database_url)
        return dict(load_step("ingest").run(settings, Manifest(run_id=name)).counts)

    run("first")
    ids = auto.execute("SELECT external_id, document_id FROM heal.document ORDER BY 1").fetchall()
    write(root, FOLDER.format(root=root).replace('["My Folder"]', "[faq]"))
    renamed = (
        (Path(__file__).parents[2] / "docs" / "sources.md").read_text().partition("```sql\n")[2].partition("```")[0]
    )
    auto.execute(renamed.replace("source:old", "source:My Folder").replace("source:new", "source:faq").encode())
    kept = run("second")
    assert (kept["new"], kept["deleted"]) == (0, 0)
    assert auto.execute("SELECT external_id, document_id FROM heal.document ORDER BY 1").fetchall() == ids
    write(root, FOLDER.format(root=root).replace('["My Folder"]', "[questions]"))
    new = run("third")
    assert (new["new"], new["deleted"], new["duplicates"]) == (3, 0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nlocation = '/x'", r"\[a\] kind: is missing; write one of folder, s3, "),
        ("[a]\nkind = 'folder'", r"\[a\] location: is missing; a source of kind 'folder' needs one"),
        ("[a]\nkind = 'folder'\nlocation = 3", r"\[a\] location: is 3; write a text in quotes"),
        ("[a]\nkind = 'folder'\nlocation = 'x'\ninclude = '*.md'", r"include: is '\*\.md'; write a list of texts"),
        ("[a]\nkind = 'folder'\nlocation = 'x'\nlangauge = 'de'", r"langauge: is no key of kind 'folder'.*language\?"),
        ("[a]\nkind = 'folder'\nlocation = 'x'\nfields = {txt = 'b'}", r"fields\.txt: is no key of fields.*text\?"),
        ("[a]\nkind = 'folder'\nlocation = 'x'\nmetadata = 'b'", r"metadata: is 'b'; write a table"),
        ("[a]\nkind = 'postgres'\nurl = 'postgresql://u:secret@h/d'", r"url: is no key .*did you mean url_env\?"),
        ("[a]\nkind = 'postgres'\nurl_env = 3\nlocation = 't'", r"url_env: is no name; write the name of the env"),
        ("[a]\nkind = 'postgres'\nurl_env = 'U'", r"\[a\] location: give either location \(SCHEMA\.TABLE\) or query"),
        ("[a]\nkind = 's3'\nlocation = 'b/../c'", r"\[a\] location: source 's3://b/../c' has '\.' or '\.\.'"),
        ("a = 3", r"sources\.toml: a stands in no table; write \[NAME\]"),
        ("[my folder]", r"sources\.toml is no TOML .*names with blanks"),
    ],
)
def test_a_wrong_table_is_named_with_the_cure(root: Path, text: str, message: str) -> None:
    write(root, text)
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(var_dir=root / "var")
    assert "secret" not in str(caught.value)


def test_other_settings_can_be_read_while_the_file_is_wrong(root: Path) -> None:
    write(root, "[a")
    settings = load_usable_settings(var_dir=root / "var", seed=5)
    assert (settings.seed, settings.sources, settings.source_tables) == (5, (), {})


def test_secrets_of_tables_are_masked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABLE_URL", "postgresql://u:hush-hush@h/d")
    monkeypatch.setenv("TABLE_BLOBS", "AccountName=a;AccountKey=aHVzaC1odXNoLWh1c2g=;EndpointSuffix=core")
    assert secret_variable("NO_SUCH_VARIABLE") is None
    assert secret_variable("TABLE_URL") == "postgresql://u:hush-hush@h/d"
    assert secret_variable("TABLE_BLOBS")
    assert redacted("the password hush-hush and the key aHVzaC1odXNoLWh1c2g= are wrong") == (
        "the password *** and the key *** are wrong"
    )


def test_the_setting_names_another_file_and_a_missing_one_is_an_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "other.toml").write_text("[docs]\nkind = 'pydocs'\nlocation = 'json'\n")
    monkeypatch.setenv("HEAL_SOURCES_FILE", "other.toml")
    settings = load_settings(var_dir=root / "var")
    assert (settings.sources, settings.sources_file) == (("source:docs",), root / "other.toml")
    source = open_source("source:docs", s3_endpoint_url=None, tables=settings.source_tables)
    assert next(source.list_files()).path == "json/__init__.py.jsonl"
    monkeypatch.setenv("HEAL_SOURCES_FILE", "gone.toml")
    with pytest.raises(SettingsError, match=r"HEAL_SOURCES_FILE=.*gone\.toml cannot be read \(No such file"):
        load_settings(var_dir=root / "var")


def test_the_one_line_names_tables_beside_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_SOURCES", '"source:My Folder" file:/b')
    assert load_settings(var_dir=root / "var").sources == ("source:My Folder", "file:/b")
    monkeypatch.setenv("HEAL_SOURCES", '"source:My Foldr"')
    with pytest.raises(SettingsError, match=r"'source:My Foldr' is no table .*did you mean source:My Folder\? "):
        load_settings(var_dir=root / "var")


TABLES = """
[inside]
kind = "folder"
location = "{root}/inside"
[outside]
kind = "folder"
location = "/etc"
[bucket]
kind = "s3"
location = "bucket/team/a"
[crm]
kind = "postgres"
url_env = "CRM_URL"
location = "public.article"
"""


def test_a_run_may_name_tables_but_no_host_database_or_place_of_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, TABLES.format(root=root))
    (root / "inside").mkdir()
    roots = f"file:{root} s3://bucket/team"
    monkeypatch.setenv("HEAL_SOURCES", "source:crm")
    assert load_settings(sources="source:outside source:bucket").sources == ("source:outside", "source:bucket")
    monkeypatch.setenv("HEAL_SOURCE_ROOTS", roots)
    taken = "source:inside source:bucket source:crm"
    assert load_settings(sources=taken).sources == tuple(taken.split())
    with pytest.raises(SettingsError, match="'source:outside' lies in none of HEAL_SOURCE_ROOTS"):
        load_settings(sources="source:outside")
    monkeypatch.setenv("HEAL_SOURCE_ROOTS", f"{roots} source:outside")
    assert load_settings(sources="source:outside").sources == ("source:outside",)
    for spec in ("source:other", "postgresql://h/d", "http://10.0.0.1/sitemap.xml", "gs://b", "az://c", "toml:/etc/x"):
        with pytest.raises(SettingsError, match=r"is no table|unknown source"):
            load_settings(sources=spec)


@pytest.mark.parametrize(
    ("path", "include", "exclude", "chosen"),
    [
        ("a.md", [], [], True),
        ("x/y/a.md", ["*.md"], [], True),
        ("x/y/a.md", ["x/*.md"], [], False),
        ("x/y/a.md", ["x/**/*.md"], [], True),
        ("x/a.md", ["x/**/*.md"], [], True),
        ("x/a.md", ["/x/*.md"], [], True),
        ("x/a.md", ["x/**"], ["**/a.md"], False),
        ("x/a.md", [], ["a.??"], False),
        ("a.MD", ["*.md"], [], False),
        ("a+b[1].md", ["a+b[1].md"], [], True),
        ("https://h/docs/a?b=1", ["docs/**"], [], True),
        ("https://h/", ["docs/**"], [], False),
        ("docs\n/a.md", ["docs\n/*"], [], True),
    ],
)
def test_patterns(path: str, include: list[str], exclude: list[str], chosen: bool) -> None:
    assert is_chosen(path, include, exclude) is chosen


def test_the_usual_fields_have_no_version(root: Path) -> None:
    write(root, "[a]\nkind = 'folder'\nlocation = 'x'\nfields = { key = 'id' }\nacl = ['user:a']\n")
    rule = read_source_tables(root / "sources.toml")["a"].rule
    assert (rule.fields, rule.version(), rule.acl) == (Fields(), "", ("user:a",))
