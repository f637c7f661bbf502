"""Rows that an earlier version settled by invalid replies."""

import json
from importlib.resources import files

from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import connect
from heal_tasks.store.migrate import apply_files, migrate

OUTCOMES = {
    # The last call about a text, the questions booked: what becomes of it.
    "answered": ("ok", 2, "answered"),
    "nothing to ask": ("ok", 0, "answered"),
    "refused": ("refused", 0, "refused"),
    "invalid": ("invalid", 0, None),
    "invalid, written before": ("invalid", 2, "answered"),
}


def test_what_an_earlier_version_settled_by_invalid_replies_is_open_again(postgres: EmbeddedPostgres) -> None:
    with connect(postgres.ensure_database("earlier_outcomes"), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector; CREATE SCHEMA heal")
        folder = files("heal_tasks.store") / "sql"
        older = sorted(item.name for item in folder.iterdir() if item.name[:3].isdigit() and item.name < "009")
        conn.execute(
            "CREATE TABLE heal.schema_migration (name text PRIMARY KEY, sha256 text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT now())"
        )
        apply_files(conn, {name: (folder / name).read_text("utf-8") for name in older})
        for number in range(len(OUTCOMES)):
            conn.execute(
                "INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash) "
                "VALUES (%(n)s, 's', %(n)s::text, 'p', '', 'b', %(n)s::text)",
                {"n": number},
            )
            conn.execute(
                "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) "
                "VALUES (%(n)s, %(n)s, 0, 't', %(n)s::text)",
                {"n": number},
            )
        chunks = conn.execute("SELECT chunk_id, content_hash FROM heal.chunk ORDER BY chunk_id").fetchall()
        for (chunk_id, content_hash), (status, questions, _) in zip(chunks, OUTCOMES.values(), strict=True):
            for outcome in ("invalid", status):
                conn.execute(
                    "INSERT INTO heal.llm_call (run_id, purpose, model, prompt_hash, content_hash, chunk_id, status, "
                    "raw_reply) VALUES ('r', 'questions', 'm', 'p', %s, %s, %s, 'the reply')",
                    (content_hash, chunk_id, outcome),
                )
            conn.execute(
                "INSERT INTO heal.chunk_asked VALUES (%s, 'p', 'm', %s, %s, 0)", (content_hash, chunk_id, questions)
            )
            status = "refused" if status == "refused" else "invalid"
            conn.execute(
                "INSERT INTO heal.entity_map VALUES (%s, %s, 'p', 'm', %s, %s, 0, 0, 9)",
                (chunk_id, content_hash, status, json.dumps({})),
            )
            conn.execute(
                "INSERT INTO heal.answer VALUES (%s, 'p', 'm', %s, %s, '', '')", (content_hash, [chunk_id], status)
            )
        migrate(conn)
        found = dict(conn.execute("SELECT chunk_id, status FROM heal.chunk_asked").fetchall())
        assert [found.get(chunk_id) for chunk_id, _ in chunks] == [item[2] for item in OUTCOMES.values()]
        assert conn.execute("SELECT reason FROM heal.chunk_asked WHERE status = 'refused'").fetchall() == [
            ("the reply",)
        ]
        for table in ("entity_map", "answer"):
            assert conn.execute(f"SELECT status FROM heal.{table}".encode()).fetchall() == [("refused",)]
