"""``doctor --security`` fails on each fault, with its cure, and passes a good installation."""

import shutil
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heal_tasks.cli import doctor_security
from heal_tasks.cli.app import app
from heal_tasks.cli.doctor_security import Listener, examine_security
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.migrate import migrate
from tests.store.sample_store import SampleStore


@pytest.fixture(autouse=True)
def no_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture
def var(settings: Settings, auto: Connection) -> Settings:
    """Settings whose state folder is closed, and a database that only its own users may connect to."""
    settings.var_dir.chmod(0o700)
    auto.execute(f"REVOKE CONNECT ON DATABASE {auto.info.dbname} FROM PUBLIC".encode())
    return settings


def faults(settings: Settings, subject: str) -> list[str]:
    found = [item for item in examine_security(settings) if item.subject == subject]
    assert all(item.level == "fail" for item in found) or [item.level for item in found] == ["ok"], found
    return [item.text for item in found if item.level == "fail"]


def test_a_good_installation_passes(var: Settings, auto: Connection, login: dict[str, str]) -> None:
    with connect(login["heal_pipeline"], autocommit=True) as pipeline:
        store = SampleStore(pipeline)
        store.load_many(5)
        store.publish(store.generation("m"))
    auto.execute("UPDATE heal.document SET source = %s", var.sources)
    found = examine_security(var)
    assert [(item.level, item.subject) for item in found] == [
        ("ok", "listeners"),
        ("ok", "files"),
        ("ok", "sources"),
        ("ok", "owners"),
        ("ok", "roles"),
        ("ok", "readers"),
    ], found
    assert found[-1].text.startswith("no document has a list of readers; principals come from heal.principals, which")


def test_the_command_fails_with_exit_code_1(
    var: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("HEAL_VAR_DIR", str(var.var_dir))
    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    done = CliRunner().invoke(app, ["doctor", "--security"])
    assert done.exit_code == 0, done.output
    auto.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    done = CliRunner().invoke(app, ["doctor", "--security"])
    assert done.exit_code == 1
    assert "FAIL roles" in done.output
    assert "REVOKE CREATE ON SCHEMA public FROM public" in done.output


def test_without_a_database_its_checks_fail(tmp_path: Path) -> None:
    found = examine_security(
        load_settings(var_dir=tmp_path / "var", database_url="postgresql://x:geheim-9@127.0.0.1:1/x")
    )
    assert [item.level for item in found] == ["ok", "ok", "fail", "fail", "fail", "fail"]
    assert "geheim-9" not in repr(found)


@pytest.mark.parametrize(
    ("listener", "fails"),
    [
        (Listener("Airflow's api-server", 1, "127.0.0.1", 8080, False), False),
        (Listener("Airflow's api-server", 1, "::1", 8080, False), False),
        (Listener("Airflow's api-server", 1, "0.0.0.0", 8080, False), True),
        (Listener("the embedded Postgres", 1, "::", 5432, False), True),
        (Listener("serve", 1, "192.168.1.7", 8000, False), True),
        (Listener("serve", 1, "0.0.0.0", 8000, True), False),
    ],
)
def test_what_listens_beyond_this_machine_without_a_token_fails(
    var: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch, listener: Listener, fails: bool
) -> None:
    monkeypatch.setattr(doctor_security, "listeners", lambda settings: [listener])
    found = faults(var, "listeners")
    assert bool(found) == fails
    if fails:
        assert f"{listener.name} (process 1) listens on {listener.address}:{listener.port}" in found[0]


def test_sockets_of_running_servers_are_found() -> None:
    folder = Path(tempfile.mkdtemp(prefix="heal-postgres-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "postgres")
    settings = load_settings(var_dir=folder)
    try:
        server.start()
        found = doctor_security.listeners(settings)
        assert {(item.name, item.address, item.guarded) for item in found} == {
            ("the embedded Postgres", "127.0.0.1", False)
        }
    finally:
        server.stop()
        shutil.rmtree(folder)
    assert doctor_security.listeners(settings) == []


def test_documents_of_a_source_outside_the_roots_fail(var: Settings, auto: Connection) -> None:
    SampleStore(auto).load_many(2)
    auto.execute("UPDATE heal.document SET source = %s", var.sources)
    assert faults(var, "sources") == []
    auto.execute("UPDATE heal.document SET source = 'file:/etc' WHERE external_id = 'd1'")
    (found,) = faults(var, "sources")
    assert found.startswith("source 'file:/etc' lies in none of HEAL_SOURCE_ROOTS (file:")
    auto.execute("UPDATE heal.document SET deleted_at = now() WHERE external_id = 'd1'")
    assert faults(var, "sources") == []


def test_readable_files_fail(var: Settings, auto: Connection) -> None:
    inbox = var.var_dir / "inbox"
    inbox.mkdir(mode=0o700)
    (inbox / "a.txt").write_text("text")
    (inbox / "a.txt").chmod(0o644)
    assert faults(var, "files") == []  # nobody else can get there
    var.var_dir.chmod(0o711)
    assert faults(var, "files") == []
    inbox.chmod(0o755)
    assert faults(var, "files") == [
        f"{path} can be read or written by every account of this machine; chmod -R o-rw {var.var_dir}"
        for path in (inbox, inbox / "a.txt")
    ]
    var.var_dir.chmod(0o755)
    assert len(faults(var, "files")) == 3
    var.var_dir.chmod(0o700)
    for number in range(30):
        (inbox / f"{number}.txt").write_text("")
    var.var_dir.chmod(0o711)
    found = faults(var, "files")
    assert len(found) == 11
    assert found[-1] == "and 22 more of this kind"
    var.var_dir.chmod(0o700)
    Path(".env").write_text("HEAL_LLM_API_KEY=x")
    Path(".env").chmod(0o644)
    assert faults(var, "files") == [
        f"{Path('.env').resolve()} can be read by every account of this machine; chmod 600 {Path('.env').resolve()}"
    ]


@pytest.mark.parametrize(
    ("role", "statement", "named"),
    [
        (
            "heal_pipeline",
            "CREATE FUNCTION heal.evil() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "DROP FUNCTION heal.evil()",
        ),
        ("heal_pipeline", "CREATE TABLE heal.mine (x int)", "DROP TABLE heal.mine"),
        (
            "heal_pipeline",
            "CREATE RULE r AS ON DELETE TO heal.vec_g000001 DO INSTEAD NOTHING",
            "DROP RULE r ON heal.vec_g000001",
        ),
        ("", "CREATE FUNCTION heal.search(text) RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION heal.search("),
        ("", "CREATE VIEW heal.mine AS SELECT 1 AS x", "DROP VIEW heal.mine"),
        ("", "ALTER FUNCTION heal.recall OWNER TO CURRENT_USER", "run `python -m heal_tasks migrate`"),
        ("", "ALTER TABLE heal.vec_g000001 OWNER TO CURRENT_USER", "run `python -m heal_tasks migrate`"),
    ],
    ids=["function", "table", "rule", "overload", "view", "owner of a function", "owner of vectors"],
)
def test_strangers_and_wrong_owners_fail(
    var: Settings, auto: Connection, login: dict[str, str], role: str, statement: str, named: str
) -> None:
    store = SampleStore(auto)
    store.load_many(3)
    store.publish(store.generation("m"))
    assert faults(var, "owners") == []
    with connect(login[role], autocommit=True) if role else connect(login["heal_owner"]) as conn:
        (conn if role else auto).execute(statement.encode())
        (found,) = faults(var, "owners")
        assert named in found


@pytest.mark.parametrize(
    ("statement", "undo", "named"),
    [
        (
            "GRANT SELECT ON heal.document TO heal_reader",
            "",
            "heal_reader has SELECT on heal.document; REVOKE ALL ON TABLE heal.document",
        ),
        ("GRANT SELECT (title) ON heal.document TO heal_reader", "", "heal_reader has SELECT on heal.document"),
        ("GRANT INSERT ON heal.embedding TO heal_reader", "", "heal_reader has INSERT on heal.embedding"),
        ("GRANT SELECT ON heal.llm_call TO PUBLIC", "", "PUBLIC has SELECT on heal.llm_call"),
        (
            "GRANT EXECUTE ON PROCEDURE heal.activate TO heal_reader",
            "",
            "heal_reader has EXECUTE on heal.activate(bigint)",
        ),
        ("GRANT EXECUTE ON FUNCTION heal.find TO PUBLIC", "", "PUBLIC has EXECUTE on heal.find"),
        ("GRANT CREATE ON SCHEMA heal TO heal_reader", "", "heal_reader has CREATE on heal; REVOKE ALL ON SCHEMA heal"),
        ("GRANT CREATE ON SCHEMA heal TO PUBLIC", "", "PUBLIC has CREATE on heal"),
        ("GRANT CREATE ON SCHEMA public TO heal_pipeline", "", "heal_pipeline may create objects in schema public"),
        (
            "ALTER FUNCTION heal.find RESET search_path",
            "",
            "has no search path of its own; run `python -m heal_tasks migrate`",
        ),
        (
            "ALTER ROLE heal_reader LOGIN",
            "ALTER ROLE heal_reader NOLOGIN",
            "role heal_reader has LOGIN; ALTER ROLE heal_reader NOLOGIN",
        ),
        (
            "ALTER ROLE heal_pipeline CREATEROLE",
            "ALTER ROLE heal_pipeline NOCREATEROLE",
            "role heal_pipeline has CREATEROLE",
        ),
        (
            "ALTER ROLE heal_pipeline SUPERUSER",
            "ALTER ROLE heal_pipeline NOSUPERUSER",
            "role heal_pipeline has SUPERUSER",
        ),
        (
            "GRANT heal_pipeline TO heal_reader",
            "REVOKE heal_pipeline FROM heal_reader",
            "role heal_reader is a member of heal_pipeline",
        ),
        (
            "GRANT pg_read_server_files TO heal_pipeline",
            "REVOKE pg_read_server_files FROM heal_pipeline",
            "member of pg_read_server_files",
        ),
    ],
)
def test_rights_beyond_those_that_migrations_grant_fail(
    var: Settings, auto: Connection, statement: str, undo: str, named: str
) -> None:
    assert faults(var, "roles") == []
    auto.execute(statement.encode())
    try:
        assert any(named in text for text in faults(var, "roles")), faults(var, "roles")
    finally:
        auto.execute(undo.encode() or b"SELECT 1")


def test_databases_of_this_deployment_are_a_note_and_others_fail(
    var: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles belong to the server: a migrated database beside ours is a fault, unless it is a corpus of ours."""
    name = auto.info.dbname
    url = var.require_database_url()
    auto.execute(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC".encode())
    auto.execute(f"CREATE DATABASE {name}_legal".encode())
    try:
        with connect(f"{url}_legal") as conn:
            migrate(conn)
        before = [text for text in faults(var, "roles") if f"{name}_legal" in text]
        assert [text.partition(" ")[0] for text in before] == ["heal_pipeline", "heal_reader"]
        assert f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO each" in before[0]
        Path("corpora").mkdir()
        Path("corpora/legal.env").touch()
        found = [item for item in examine_security(var) if item.subject == "roles"]
        assert not [item for item in found if item.level == "fail" and f"{name}_legal" in item.text]
        notes = [item.text for item in found if item.level == "note"]
        assert [text.partition(",")[0] for text in notes] == [
            f"{role} has rights in {name}_legal" for role in ("heal_pipeline", "heal_reader")
        ]
        assert f"to keep readers apart: REVOKE CONNECT ON DATABASE {name} FROM PUBLIC" in notes[0]
        # From the corpus, the deployment's database is ours; the template of the tests is nobody's.
        monkeypatch.setenv("HEAL_DATABASE_URL", url)
        monkeypatch.setenv("HEAL_VAR_DIR", str(var.var_dir))
        theirs = [item for item in examine_security(load_settings(corpus="legal")) if item.subject == "roles"]
        assert [item.level for item in theirs if f"{name}," in item.text] == ["note", "note"]
        assert [item.level for item in theirs if "heal_template" in item.text] == ["fail", "fail"]
    finally:
        auto.execute(f"DROP DATABASE {name}_legal WITH (FORCE)".encode())


def test_members_that_are_more_than_ordinary_users_fail(var: Settings, auto: Connection, login: dict[str, str]) -> None:
    assert faults(var, "roles") == []
    name = login["heal_reader"].split("//")[1].split(":")[0]
    auto.execute(f"ALTER ROLE {name} SUPERUSER".encode())
    (found,) = faults(var, "roles")
    assert found.startswith(f"{name}, a member of heal_reader, is a superuser")
    auto.execute(f"ALTER ROLE {name} NOSUPERUSER; GRANT pg_execute_server_program TO {name}".encode())
    (found,) = faults(var, "roles")
    assert f"REVOKE pg_execute_server_program FROM {name}" in found
    auto.execute(f"REVOKE pg_execute_server_program FROM {name}".encode())
