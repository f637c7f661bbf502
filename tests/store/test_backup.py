"""Backup and restore as docs/operations.md describes them, with the server's own programs."""

import re
import subprocess
from pathlib import Path

import psycopg

from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import connect
from heal_tasks.store.generations.search import search
from heal_tasks.store.migrate import migrate
from tests.store.sample_store import SampleStore, encode

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def run(server: EmbeddedPostgres, program: str, *arguments: str) -> None:
    done = subprocess.run([str(server.bin(program)), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def restore(server: EmbeddedPostgres, url: str, dump: Path) -> None:
    run(server, "pg_restore", "--no-owner", "--no-privileges", "--dbname", url, str(dump))


def test_a_whole_store_is_restored_elsewhere(
    store: SampleStore, postgres: EmbeddedPostgres, database_url: str, tmp_path: Path
) -> None:
    store.load(a="the first|text", b="another")
    store.publish(store.generation("m"))
    dump = tmp_path / "heal.dump"
    run(postgres, "pg_dump", "--format=custom", "--schema=heal", "--file", str(dump), database_url)
    other = postgres.ensure_database("restored")
    with psycopg.connect(other, autocommit=True) as admin:
        admin.execute("CREATE EXTENSION vector")
    restore(postgres, other, dump)
    with connect(other, autocommit=True) as conn:
        assert migrate(conn) == []
        query = encode(["another"])[0]
        conn.execute("SET ROLE heal_reader")
        assert search(conn, query, 1) == search(store.conn, query, 1)
        found = "SELECT * FROM heal.find('another text')"
        assert conn.execute(found).fetchall() == store.conn.execute(found).fetchall() != []
        conn.execute("RESET ROLE")
        SampleStore(conn).load(c="basalt")
        assert conn.execute("SELECT words::text FROM heal.chunk WHERE text = 'basalt'").fetchall() == [("'basalt':2",)]


def test_a_dropped_generation_comes_back_without_what_was_deleted(
    store: SampleStore, postgres: EmbeddedPostgres, database_url: str, tmp_path: Path
) -> None:
    store.load(a="x", b="y", c="z")
    made = [store.generation(f"m{number}") for number in range(3)]
    for generation in made:
        store.publish(generation)
    dump = tmp_path / "generation.dump"
    run(postgres, "pg_dump", "--format=custom", "--table", "heal.*_g000001", "--file", str(dump), database_url)
    assert store.generations.retire_old(0) == [1]
    store.delete("b")
    restore(postgres, database_url, dump)
    (block,) = re.findall(r"^    BEGIN;\n(?:    .+\n)+?    CALL heal\.activate\(7\);\n", OPERATIONS, re.MULTILINE)
    statements = block.replace("g000007", "g000001").replace("= 7", "= 1").replace("(7)", "(1)")
    store.conn.execute(statements.encode())
    migrate(store.conn)
    active = store.generations.active()
    assert active is not None
    assert active.generation_id == 1
    hits = search(store.conn, encode(["x"], model="m0")[0], 1)
    assert hits[0].text == "x"
    assert {hit.text for hit in hits} == {"x", "z"}
    assert store.served.health(active)["orphans"] == 0
    stems = store.conn.execute("SELECT stem FROM heal.lex_g000001 ORDER BY 1").fetchall()
    assert stems == [("x",), ("z",)]
    owners = store.conn.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE tablename ~ '_g000001$'").fetchall()
    assert owners == [("heal_pipeline",)]
