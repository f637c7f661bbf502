"""A database with data of the version before file states is migrated, and reads again what it has to."""

import unicodedata
from importlib.resources import files

import pytest

from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import connect
from heal_tasks.store.migrate import apply_files


@pytest.fixture
def older_url(postgres: EmbeddedPostgres) -> str:
    """URL of a database with the numbered files before this one, applied as an older version did."""
    url = postgres.ensure_database("older_files")
    folder = files("heal_tasks.store") / "sql"
    numbered = {item.name: item.read_text("utf-8") for item in folder.iterdir() if item.name < "009"}
    with connect(url, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector; CREATE SCHEMA heal")
        conn.execute(
            "CREATE TABLE heal.schema_migration "
            "(name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        apply_files(conn, numbered)
    return url


def test_files_quarantine_and_names_of_an_older_version(older_url: str) -> None:
    spelled = unicodedata.normalize("NFD", "café")
    with connect(older_url, autocommit=True) as conn:
        for path, clean in (("good.txt", True), ("partly.jsonl", False), ("spelled.jsonl", True)):
            conn.execute("INSERT INTO heal.source_file VALUES ('file:/a', %s, 'print', %s)", (path, clean))
        conn.execute(
            "INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash) "
            "VALUES (1, 'file:/a', %s, 'spelled.jsonl', '', 'b', 'h'), (2, 'file:/a', 'x', 'good.txt', '', 'b', 'i')",
            (spelled,),
        )
        reason = "x" * 120
        for number, end in enumerate(("a", "b", "c")):
            conn.execute(
                "INSERT INTO heal.quarantine (run_id, source, path, line, reason, raw) "
                "VALUES (%s, 'file:/a', 'p', 1, %s, '')",
                (f"r{number}", reason + end),
            )
        folder = files("heal_tasks.store") / "sql"
        name = "009_source_files.sql"
        assert apply_files(conn, {name: (folder / name).read_text("utf-8")}) == [name]
        rows = conn.execute("SELECT path, fingerprint, state FROM heal.source_file ORDER BY path").fetchall()
        assert rows == [
            ("good.txt", "print", "read"), ("partly.jsonl", "print", "partly"), ("spelled.jsonl", "", "read"),
        ]  # fmt: skip
        assert conn.execute("SELECT run_id, records, mended_at FROM heal.quarantine").fetchall() == [("r2", 1, None)]
