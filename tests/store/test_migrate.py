import threading
from importlib.resources import files

import numpy as np
import psycopg
import pytest
from psycopg import sql

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.core.ids import sha256_hex
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, check_versions, connect, retryable, storable_json
from heal_tasks.store.migrate import apply_files, migrate

LANDED = {
    "001_tables.sql": "ba475abe174c",
    "002_questions.sql": "52faf10a5cf5",
    "003_entity_maps.sql": "c4e47986bcca",
    "004_llm_batches.sql": "0fd89d45b492",
    "005_search.sql": "92e87116ef1e",
    "006_question_checks.sql": "3e96bb7abe83",
    "007_nudge_state.sql": "e464fa94fbcf",
    "008_nudge_prior.sql": "889cf8736bd6",
    "009_nudge_centre.sql": "5ddf2a229466",
    "010_nearest.sql": "9fec2d62719a",
    "011_answers.sql": "425a4abad3f1",
    "012_nudge_contrast.sql": "65ffb006cfd7",
    "013_push_levels.sql": "ff1489ca00e1",
    "014_nudge_by_people.sql": "abf86831e04f",
}
"""Beginnings of the SHA-256 of files that deployments have applied; an edited one would be refused there."""


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


def test_files_that_deployments_have_applied_are_as_they_were() -> None:
    folder = files("heal_tasks.store") / "sql"
    assert {name: sha256_hex((folder / name).read_text("utf-8"))[:12] for name in LANDED} == LANDED


def migrate_before(conn: Connection, number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring a database to the schema that came before a numbered file."""
    folder = files("heal_tasks.store") / "sql"
    before = [name for name in LANDED if name < number]
    older = {name: (folder / name).read_text("utf-8") for name in [*before, "roles.sql"]}
    with monkeypatch.context() as patch:
        patch.setattr("heal_tasks.store.migrate._packaged", lambda: {**older, "rights.sql": "SELECT 1"})
        migrate(conn)


def test_question_tables_of_older_generations_get_what_late_chunks_are_pushed_by(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(empty_url) as conn:
        migrate_before(conn, "013", monkeypatch)
        conn.execute(
            "CREATE TABLE heal.question_g000001 (question_id bigint PRIMARY KEY, embedding vector(2) NOT NULL)"
        )
        conn.execute("ALTER TABLE heal.question_g000001 OWNER TO heal_pipeline")
        conn.execute("INSERT INTO heal.question_g000001 VALUES (7, '[1,0]')")
        conn.commit()
        migrate(conn)
        assert conn.execute("SELECT question_id, push_level, push_weight FROM heal.question_g000001").fetchall() == [
            (7, None, None)
        ]


def test_validation_questions_move_the_rows_of_a_budget_that_is_older_than_that(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(empty_url) as conn:
        migrate_before(conn, "009", monkeypatch)
        conn.execute(
            """INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash)
            VALUES (1, 's', 'd', '', '', '', 'h');
            INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash)
            SELECT n, 1, n, '', n::text FROM generate_series(1, 3) n;
            INSERT INTO heal.question
            (question_id, chunk_id, text, answer, evidence, kind, writer, model, prompt_hash, split)
            SELECT n, n, n::text, '', '', 'question', 'w', 'm', 'p', ('{train,seen_validation,unseen_test}'::text[])[n]
            FROM generate_series(1, 3) n;
            INSERT INTO heal.generation (kind, state, run_id, model_uri, model_sha256, dims, nudge_variant, nudge_theta)
            VALUES ('reference', 'active', 'r', 'm', 's', 2, 'N', .5)"""
        )
        conn.commit()
        migrate(conn)
        assert conn.execute("SELECT chunk_id FROM heal.nudge_touched").fetchall() == [(2,)]


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


def test_versions_that_are_too_old_are_refused(auto: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    check_versions(auto)
    monkeypatch.setattr("heal_tasks.store.db.MIN_SERVER", 99)
    with pytest.raises(StoreError, match=r"Postgres \d+ is too old: 99 or newer"):
        check_versions(auto)
    monkeypatch.setattr("heal_tasks.store.db.MIN_SERVER", 15)
    monkeypatch.setattr("heal_tasks.store.db.MIN_PGVECTOR", (0, 9, 0))
    with pytest.raises(StoreError, match=r"pgvector 0\.8\.\d+ corrupts HNSW indexes on vacuum; install 0\.9\.0"):
        check_versions(auto)


def test_a_server_that_does_not_answer_is_worth_a_retry() -> None:
    with pytest.raises(RetryableError, match=r"(?s)Postgres cannot be used right now.*check HEAL_DATABASE_URL"):
        connect("postgresql://heal@127.0.0.1:1/none")


def test_a_killed_connection_is_worth_a_retry(auto: Connection, database_url: str) -> None:
    pid = auto.info.backend_pid
    with connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    with pytest.raises(RetryableError), retryable():
        auto.execute("SELECT 1")


def test_a_mistake_is_not_worth_a_retry(auto: Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable), retryable():
        auto.execute("SELECT * FROM nothing")


def test_json_that_postgres_refuses_is_made_storable(auto: Connection) -> None:
    value = {"a\x00": ["\ud800", float("inf"), {"n": float("nan")}, 1, True, None], "t": ("x",)}
    made = storable_json(value)
    assert made == {"a\ufffd": ["\ufffd", None, {"n": None}, 1, True, None], "t": ["x"]}
    row = auto.execute("SELECT %s", (psycopg.types.json.Jsonb(made),)).fetchone()
    assert row == (made,)


def test_generation_tables_have_the_same_name_in_sql_and_python(auto: Connection) -> None:
    for number in (1, 999_999, 1_234_567):
        row = auto.execute("SELECT heal.vector_table(%s::bigint)", (number,)).fetchone()
        assert row == (f"vec_g{number:06d}",)
    assert sql.Identifier("heal", "vec_g000001").as_string(auto) == '"heal"."vec_g000001"'
