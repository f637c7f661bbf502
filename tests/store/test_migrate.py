import shutil
import tempfile
import threading
from importlib.resources import files
from pathlib import Path

import numpy as np
import psycopg
import pytest

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.core.ids import sha256_hex
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, check_versions, connect, storable_json
from heal_tasks.store.migrate import apply_files, migrate, migrate_corpora

LANDED = {
    "001_documents.sql": "6ec947cef75b",
    "002_topics.sql": "4bf11e61b1ea",
    "003_questions.sql": "cc6a1ee519b4",
    "004_llm.sql": "d35cffc2968e",
    "005_generations.sql": "6372ca4c91b6",
    "006_nudge.sql": "2f0582ad7502",
    "007_runs.sql": "5388cbe09802",
    "008_lexicon.sql": "c401edf24c4c",
    "009_source_files.sql": "f461b1ad1624",
    "010_outcomes.sql": "728d28f0a88b",
    "011_words.sql": "de924513948e",
    "012_locks.sql": "bb3196981ecb",
    "013_run_lock.sql": "1cea7a32f153",
    "014_search.sql": "2279ef901aac",
    "015_run_state.sql": "ee87d3489d86",
    "016_changes.sql": "055be4c3ac00",
    "017_store_page.sql": "0d359ceeae1f",
    "018_adopted.sql": "4ebeb731c9a1",
    "019_index_kinds.sql": "9baf037d3552",
    "020_bridge.sql": "fe930bffb01b",
    "021_headings.sql": "e642f45e4464",
    "022_acl.sql": "d2afe314f8cc",
    "023_feedback.sql": "8b6855d370a9",
    "024_kept.sql": "68f6e9075f22",
    "025_order.sql": "9bd152a81151",
    "026_near_chunks.sql": "b675e7fe0cd8",
    "027_tags.sql": "f31951b672d3",
}
"""Beginnings of the SHA-256 of numbered files. An edited one is refused by databases that have it: add a new file."""


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> str:
    name = f"empty_{request.node.name}"[:60]
    return postgres.ensure_database(name)


def test_a_fresh_database_gets_every_file_and_a_second_run_none(empty_url: str) -> None:
    packaged = {item.name for item in (files("heal_tasks.store") / "sql").iterdir() if item.name.endswith(".sql")}
    with connect(empty_url) as conn:
        applied = migrate(conn)
        assert set(applied) == packaged - {"roles.sql", "rights.sql"}
        assert applied == [*sorted(n for n in applied if n[0].isdigit()), *sorted(n for n in applied if n[0].isalpha())]
        assert migrate(conn) == []
        conn.execute("SELECT '[1,2]'::vector")
        row = conn.execute("SELECT %s", (np.ones(2, dtype=np.float32),)).fetchone()
        assert row is not None
        assert row[0].to_list() == [1.0, 1.0]


def test_numbered_files_stay_as_they_are() -> None:
    folder = files("heal_tasks.store") / "sql"
    found = {item.name: sha256_hex(item.read_text("utf-8"))[:12] for item in folder.iterdir() if item.name[0].isdigit()}
    assert found == LANDED


def test_a_view_of_a_user_on_a_function_that_changes_is_named(auto: Connection) -> None:
    auto.execute("CREATE VIEW public.mine AS SELECT * FROM heal.find('a question')")
    auto.execute("DELETE FROM heal.schema_migration WHERE name = '014_search.sql' OR name LIKE 'api%'")
    with pytest.raises(StoreError, match=r"view (public\.)?mine depends on function .*; drop that, migrate, and make"):
        migrate(auto)
    auto.execute("DROP VIEW public.mine")
    migrate(auto)
    auto.execute("SELECT * FROM heal.topics")


def test_a_database_of_an_older_checkout_is_refused_and_stays_as_it_is(empty_url: str) -> None:
    with connect(empty_url) as conn:
        conn.execute(
            "CREATE SCHEMA heal; CREATE TABLE heal.schema_migration (name text PRIMARY KEY, sha256 text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT now()); "
            "INSERT INTO heal.schema_migration VALUES ('001_tables.sql', 'x'); CREATE TABLE heal.document (x int)"
        )
        conn.commit()
        with pytest.raises(StoreError, match=r"made before version 0\.1\.0 .* DROP SCHEMA heal CASCADE, migrate"):
            migrate(conn)
        conn.rollback()
        names = conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace AND relkind = 'r'")
        assert {name for (name,) in names} == {"schema_migration", "document"}
        conn.execute("DROP SCHEMA heal CASCADE")
        conn.commit()
        assert migrate(conn)


def test_works_on_an_autocommit_connection(empty_url: str) -> None:
    with connect(empty_url, autocommit=True) as conn:
        assert len(migrate(conn)) >= 2
        assert migrate(conn) == []


def test_an_edited_file_is_refused(auto: Connection) -> None:
    apply_files(auto, {"002_more.sql": "CREATE TABLE heal.more (x int)"})
    assert apply_files(auto, {"002_more.sql": "CREATE TABLE heal.more (x int)"}) == []
    with pytest.raises(StoreError, match=r"002_more\.sql has been edited after it was applied"):
        apply_files(auto, {"002_more.sql": "CREATE TABLE heal.more (x bigint)"})


def test_the_repeatable_file_is_applied_again_when_it_changes(auto: Connection) -> None:
    body = "CREATE OR REPLACE FUNCTION heal.answer() RETURNS int LANGUAGE sql AS 'SELECT {}'"
    for number in (1, 2):
        assert apply_files(auto, {"api.sql": body.format(number)}) == ["api.sql"]
        assert auto.execute("SELECT heal.answer()").fetchone() == (number,)
    assert apply_files(auto, {"api.sql": body.format(2)}) == []


def test_a_broken_file_leaves_nothing_behind(auto: Connection) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        apply_files(auto, {"002_good.sql": "CREATE TABLE heal.good (x int)", "003_bad.sql": "CREATE NONSENSE"})
    assert auto.execute("SELECT to_regclass('heal.good')").fetchone() == (None,)


def test_two_at_once_apply_each_file_once(empty_url: str) -> None:
    applied: list[list[str]] = []

    def run() -> None:
        with connect(empty_url, autocommit=True) as conn:
            applied.append(migrate(conn))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, applied))[:2] == [0, 0]
    assert len(max(applied, key=len)) >= 2


def test_a_user_without_rights_is_told_what_to_do(postgres: EmbeddedPostgres, empty_url: str) -> None:
    with connect(empty_url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS plain")
        admin.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    url = empty_url.replace(postgres.url().split("//")[1].split("@")[0], "plain:plain")
    with connect(url) as conn, pytest.raises(StoreError, match="let a superuser run CREATE EXTENSION vector"):
        migrate(conn)


def test_pgvector_in_a_schema_of_its_own_has_to_be_usable(empty_url: str) -> None:
    with connect(empty_url, autocommit=True, vectors=False) as conn:
        conn.execute('CREATE SCHEMA "Extensions"; CREATE EXTENSION vector SCHEMA "Extensions"')
        with pytest.raises(StoreError, match=r'as its owner: GRANT USAGE ON SCHEMA "Extensions" TO .*') as caught:
            migrate(conn)
        conn.execute("GRANT" + str(caught.value).rpartition("GRANT")[2])  # type: ignore[arg-type]
        assert migrate(conn)


def test_versions_that_are_too_old_are_refused(auto: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    check_versions(auto)
    monkeypatch.setattr("heal_tasks.store.db.MIN_SERVER", 99)
    with pytest.raises(StoreError, match=r"Postgres \d+ is too old: 99 or newer"):
        check_versions(auto)
    monkeypatch.setattr("heal_tasks.store.db.MIN_SERVER", 15)
    monkeypatch.setattr("heal_tasks.store.db.MIN_PGVECTOR", (0, 9, 0))
    with pytest.raises(StoreError, match=r"pgvector 0\.8\.\d+ corrupts HNSW indexes on vacuum; install 0\.9\.0"):
        check_versions(auto)


def test_a_server_that_does_not_answer_is_retryable() -> None:
    with pytest.raises(RetryableError, match=r"(?s)Postgres cannot be used right now.*check HEAL_DATABASE_URL"):
        connect("postgresql://heal@127.0.0.1:1/none")


def test_json_that_postgres_refuses_is_made_storable(auto: Connection) -> None:
    value = {"a\x00": ["\ud800", float("inf"), {"n": float("nan")}, 1, True, None], "t": ("x",)}
    made = storable_json(value)
    assert made == {"a\ufffd": ["\ufffd", None, {"n": None}, 1, True, None], "t": ["x"]}
    row = auto.execute("SELECT %s", (psycopg.types.json.Jsonb(made),)).fetchone()
    assert row == (made,)


def test_a_corpus_on_another_server_gets_no_database_on_this_one(
    postgres: EmbeddedPostgres, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").mkdir()
    folder = Path(tempfile.mkdtemp(prefix="heal-other-"))
    folder.chmod(0o711)
    other = EmbeddedPostgres(folder / "data")
    other.start()
    try:
        (tmp_path / "corpora" / "legal.env").write_text(f"HEAL_DATABASE_URL={other.url('elsewhere')}\n")
        with pytest.raises(StoreError, match=r'(?s)corpus legal was left out: .*database "elsewhere" does not exist'):
            list(migrate_corpora(database_url))
        with psycopg.connect(postgres.url()) as admin:
            assert admin.execute("SELECT FROM pg_database WHERE datname = 'elsewhere'").fetchall() == []
    finally:
        other.stop()
        shutil.rmtree(folder)


def test_a_malformed_url_of_a_corpus_is_not_shown(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "legal.env").write_text("HEAL_DATABASE_URL=postgresql://user:se%zzcret@host/db\n")
    with pytest.raises(StoreError, match="it is not shown, because it may have a password"):
        list(migrate_corpora(database_url))
