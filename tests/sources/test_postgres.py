"""Rows of a second database as documents: changes, deletions, lost connections, and refusals of the server."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from heal_tasks.core.errors import HealError, RetryableError, SettingsError, SourceError
from heal_tasks.core.settings import load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources import postgres as kind
from heal_tasks.sources.base import open_source
from heal_tasks.sources.postgres import PostgresSource
from heal_tasks.store.db import Connection
from tests.sources.conftest import Run

ARTICLES = """
[crm]
kind = "postgres"
location = "public.article"
url_env = "CRM_URL"
deleted = "gone"
metadata = { from = "crm" }
[crm.fields]
text = ["question", "answer"]
title = "subject"
updated_at = "changed"
"""


@pytest.fixture
def crm(postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An autocommit connection to a second database, whose URL is in CRM_URL; ``sources.toml`` names its table."""
    url = postgres.ensure_database("crm")
    monkeypatch.setenv("CRM_URL", url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEAL_SOURCES", raising=False)
    (tmp_path / "sources.toml").write_text(ARTICLES)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            'CREATE TABLE article (id int PRIMARY KEY, "Subject" text, question text, answer text, gone boolean, '
            "price numeric, photo bytea, changed timestamptz NOT NULL DEFAULT now())"
        )
        yield conn
        conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def fill(crm: Any, rows: int) -> None:
    crm.execute(
        'INSERT INTO article (id, "Subject", question, answer, price, photo) '
        "SELECT n, 'Subject ' || n, 'Question ' || n || '?', 'Answer ' || n, 1.5, '\\x00' "
        "FROM generate_series(1, %s) n",
        (rows,),
    )


def opened(tmp_path: Path, text: str = ARTICLES) -> Any:
    (tmp_path / "sources.toml").write_text(text)
    settings = load_settings(var_dir=tmp_path / "var")
    return open_source("source:crm", s3_endpoint_url=None, tables=settings.source_tables)


def test_rows_are_documents_and_only_blocks_with_a_change_are_read(
    crm: Any, run: Run, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(crm, 1000)
    first = run()
    assert (first["new"], first["rejected"], first["skipped"]) == (1000, 0, 0)
    row = auto.execute(
        "SELECT title, body, metadata - 'updated_at' FROM heal.document WHERE external_id = '7'"
    ).fetchone()
    assert row == ("Subject 7", "Question 7?\n\nAnswer 7", {"from": "crm", "price": 1.5})
    read, original = list[str](), PostgresSource.read

    def counted(source: PostgresSource, file: Any, limit: int) -> bytes:
        read.append(file.path)
        return original(source, file, limit)

    monkeypatch.setattr(PostgresSource, "read", counted)
    assert run()["changed"] == 0
    assert read == []
    crm.execute("UPDATE article SET answer = 'Another', changed = now() WHERE id = 500")
    crm.execute("DELETE FROM article WHERE id IN (3, 900)")
    crm.execute("UPDATE article SET gone = true WHERE id = 700")
    crm.execute("INSERT INTO article (id, question) VALUES (1001, 'New?')")
    after = run()
    assert (after["new"], after["changed"], after["deleted"]) == (1, 1, 3)
    assert 0 < len(read) <= 6
    crm.execute("UPDATE article SET gone = false WHERE id = 700")
    assert run()["new"] == 1


def test_names_with_a_percent_sign(crm: Any, tmp_path: Path) -> None:
    fill(crm, 3)
    crm.execute('ALTER TABLE article RENAME price TO "growth %"; ALTER TABLE article RENAME id TO "100%s"')
    table = ARTICLES.replace("[crm.fields]", '[crm.fields]\nkey = "100%s"')
    for text in (
        table,
        table.replace('location = "public.article"', "query = \"SELECT * FROM article WHERE '%' <> 'x'\""),
    ):
        source = opened(tmp_path, text)
        rows = b"".join(source.read(file, 10**6) for file in source.list_files())
        assert rows.count(b'"growth %": 1.5') == 3


def test_a_column_names_readers_though_the_metadata_leave_it_out(
    crm: Any, run: Run, auto: Connection, tmp_path: Path
) -> None:
    fill(crm, 3)
    crm.execute('ALTER TABLE article ADD "Acl" text[]; UPDATE article SET "Acl" = \'{ann,bob}\' WHERE id = 2')
    text = ARTICLES.replace("[crm.fields]", 'acl = ["staff"]\n[crm.fields]\nmetadata = ["price"]')
    (tmp_path / "sources.toml").write_text(text)
    run()
    rows = auto.execute("SELECT external_id, acl FROM heal.document ORDER BY 1").fetchall()
    assert rows == [("1", ["staff"]), ("2", ["ann", "bob"]), ("3", ["staff"])]


def test_a_query_without_a_time_of_change_is_compared_by_its_rows(
    crm: Any, run: Run, auto: Connection, tmp_path: Path
) -> None:
    fill(crm, 300)
    (tmp_path / "sources.toml").write_text(
        '[crm]\nkind = "postgres"\nurl_env = "CRM_URL"\n'
        "query = \"SELECT 'a/' || id AS id, question AS body, price FROM article WHERE question LIKE 'Question 1%';\"\n"
    )
    assert run()["new"] == 111
    assert auto.execute("SELECT count(*) FROM heal.document WHERE external_id LIKE 'a/1%'").fetchone() == (111,)
    crm.execute("UPDATE article SET question = 'Question 1 changed' WHERE id = 17")
    crm.execute("UPDATE article SET question = 'no more' WHERE id = 18")
    after = run()
    assert (after["new"], after["changed"], after["deleted"]) == (0, 1, 1)


def test_a_row_whose_time_is_null_is_compared_by_its_content(crm: Any, run: Run) -> None:
    fill(crm, 3)
    crm.execute("ALTER TABLE article ALTER changed DROP NOT NULL")
    crm.execute("UPDATE article SET changed = NULL")
    run()
    crm.execute("UPDATE article SET answer = 'Another' WHERE id = 2")
    assert run()["changed"] == 1
    crm.execute("UPDATE article SET photo = '\\x01', answer = 'Same time' WHERE id = 1")
    assert run()["changed"] == 1


def test_blocks_stay_where_they_are_when_rows_come_and_go(crm: Any, tmp_path: Path) -> None:
    fill(crm, 20_000)
    source = opened(tmp_path)
    before = {file.path: file.fingerprint for file in source.list_files()}
    assert 20_000 / 32 < len(before) < 20_000 / 8
    crm.execute("DELETE FROM article WHERE id = 4321; INSERT INTO article (id, question) VALUES (0, 'First?')")
    after = {file.path: file.fingerprint for file in source.list_files()}
    assert len(set(before.items()) ^ set(after.items())) <= 6


def test_rows_without_a_key_and_keys_that_come_twice_are_named(
    crm: Any, run: Run, auto: Connection, tmp_path: Path
) -> None:
    (tmp_path / "sources.toml").write_text('[crm]\nkind = "postgres"\nurl_env = "CRM_URL"\nlocation = "loose"\n')
    crm.execute("CREATE TABLE loose (id text, text text)")
    crm.execute("INSERT INTO loose VALUES ('a', 'one'), ('a', 'two'), (NULL, 'three'), (NULL, 'four'), ('b', 'five')")
    counts = run()
    assert (counts["new"], counts["rejected"], counts["skipped"]) == (2, 1, 1)
    reasons = auto.execute("SELECT reason FROM heal.quarantine").fetchall()
    assert reasons == [("id 'a' is already on line 1; make ids unique",)]


def test_a_lost_connection_is_worth_a_retry_and_deletes_nothing(
    crm: Any, run: Run, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(crm, 3000)
    run()
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'crm' AND pid <> pg_backend_pid()"
    original, seen = kind._blocks, list[object]()

    def cut_off(rows: Any) -> Iterator[Any]:
        for block in original(rows):
            seen.append(block)
            if len(seen) == 3:
                crm.execute(others)
            yield block

    monkeypatch.setattr(kind, "_FETCHED", 100)
    monkeypatch.setattr(kind, "_blocks", cut_off)
    crm.execute("DELETE FROM article WHERE id < 1000; UPDATE article SET changed = now() WHERE id > 2000")
    with pytest.raises(RetryableError, match="source 'crm': Postgres cannot be used right now: "):
        run()
    seen.clear()
    monkeypatch.setattr(kind, "_blocks", original)
    reading = PostgresSource.read
    monkeypatch.setattr(PostgresSource, "read", lambda *args: (crm.execute(others), reading(*args))[1])
    with pytest.raises(RetryableError, match="source 'crm': Postgres cannot be used right now: "):
        run()
    assert auto.execute("SELECT count(*) FROM heal.document WHERE deleted_at IS NULL").fetchone() == (3000,)
    monkeypatch.setattr(PostgresSource, "read", reading)
    assert run()["deleted"] == 999


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("public.article", "public.missing", SourceError, r'"public.missing" does not exist\); correct loc'),
        ('"subject"', '"headline"', SettingsError, r"fields\.title: is 'headline', and there is no such column; there"),
        ('"gone"', '"removed"', SettingsError, r"\[crm\] deleted: is 'removed', and there is no such column"),
        ('location = "public.article"', 'query = "SELECT nope"', SourceError, r'column "nope" does not exist'),
        (
            'location = "public.article"',
            "query = \"SELECT 1 AS id, 'a' AS question, '' AS answer, '' AS subject, false AS gone, now() AS changed, "
            "pg_sleep(9)::text\"",
            SourceError, r"statement timeout\); it took more than 1 s; make an index",
        ),
        (
            'location = "public.article"',
            "query = \"SELECT lo_create(0)::int AS id, 'a' AS question, '' AS answer, '' AS subject, false AS gone, "
            'now() AS changed"',
            SourceError, r"cannot execute lo_create\(\) in a read-only transaction",
        ),
    ],
)  # fmt: skip
def test_what_the_server_refuses_is_named(
    crm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, error: type[HealError], message: str
) -> None:
    monkeypatch.setattr(kind, "STATEMENT_TIMEOUT_S", 1)
    source = opened(tmp_path, ARTICLES.replace(old, new))
    with pytest.raises(error, match=message):
        list(source.list_files())


def test_a_database_that_does_not_answer_and_a_url_that_is_none(
    crm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_URL", "postgresql://u:hush-hush@127.0.0.1:1/crm")
    with pytest.raises(RetryableError, match=r"cannot be used right now: .*refused") as caught:
        list(opened(tmp_path).list_files())
    assert "hush" not in str(caught.value)
    monkeypatch.setenv("CRM_URL", "postgresql://u:hush hush@127.0.0.1:x/crm")
    with pytest.raises(SettingsError, match=r"\[crm\] url_env: its variable has a malformed URL") as caught2:
        list(opened(tmp_path).list_files())
    assert "hush" not in str(caught2.value)
    monkeypatch.delenv("CRM_URL")
    with pytest.raises(SettingsError, match=r"\[crm\] url_env: the variable CRM_URL is not set; set it in the env"):
        opened(tmp_path)


def test_the_secret_is_read_from_dotenv_and_from_the_container_too(
    crm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(crm, 1)
    value = os.environ["CRM_URL"]
    monkeypatch.delenv("CRM_URL")
    (tmp_path / ".env").write_text(f"CRM_URL={value}\n")
    assert len(list(opened(tmp_path).list_files())) == 1
    (tmp_path / ".env").unlink()
    monkeypatch.setattr("heal_tasks.core.environment.SECRETS_FOLDER", tmp_path)
    (tmp_path / "crm_url").write_text(f"{value}\n")
    assert len(list(opened(tmp_path).list_files())) == 1
