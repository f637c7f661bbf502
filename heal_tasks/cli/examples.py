"""Two SQL queries with their results, as command lines to paste into a shell."""

import subprocess
from collections.abc import Iterator

from psycopg import sql

from heal_tasks.cli.base import console, print_line
from heal_tasks.core.errors import StoreError
from heal_tasks.core.settings import child_environment
from heal_tasks.store.db import Connection

COLUMNS = "left(title, 70) AS title, round(distance::numeric, 3) AS distance"


def print_examples(conn: Connection, database_url: str, psql: str, prefix: str) -> None:
    """Show ``heal.similar`` for a document and ``heal.search`` with a stored question's vector; no encoder is needed.

    Nothing is shown while no generation is active. ``psql`` is the program as a person types it, ``prefix`` a command
    to type before it, for example ``. var/local.env; ``. The URL is passed in the environment: no password is shown.
    """
    for about, query in _queries(conn):
        command = f'{psql} "$HEAL_DATABASE_URL" -c "{query}"'
        # Run as shown, except for the prefix, which sets the same variable.
        environment = child_environment(HEAL_DATABASE_URL=database_url)
        shell = ["/bin/sh", "-c", command]
        result = subprocess.run(shell, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise StoreError(f"the example query failed: {result.stderr.strip()}; the command was: {command}")
        console.print(f"\nSQL        {about}", style="bold")
        print_line(f"{prefix}{command}\n{result.stdout.rstrip()}")


def _queries(conn: Connection) -> Iterator[tuple[str, str]]:
    """Queries, each after the question that it answers."""
    row = conn.execute(
        """SELECT substring(d.title FROM '^[A-Za-z0-9_. ]+')
           FROM heal.embedding e JOIN heal.document d USING (document_id)
           WHERE d.title ~ '^[A-Za-z0-9_. ]{3,}'
           ORDER BY d.title LIKE 'sklearn.cluster.KMeans(%' DESC, d.title LIKE 'sklearn.cluster.%' DESC, d.title
           LIMIT 1"""
    ).fetchone()
    if row:
        # A pattern of the title, because a person does not know ids.
        document = f"SELECT document_id FROM heal.document WHERE title LIKE '{row[0]}%' ORDER BY title LIMIT 1"
        yield "what is similar to a document:", f"SELECT {COLUMNS} FROM heal.similar(({document}), 5)"
    generation = conn.execute(
        "SELECT generation_id, heal.space_table(space_id, 'question') FROM heal.generation WHERE state = 'active'"
    ).fetchone()
    if generation is None:
        return
    # A held-out question if there is one.
    row = conn.execute(
        sql.SQL(
            "SELECT q.question_id, q.text FROM heal.question q JOIN {} USING (question_id) "
            "ORDER BY q.kind <> 'question', q.split NOT LIKE 'unseen%', q.split = 'train', q.question_id LIMIT 1"
        ).format(sql.Identifier("heal", generation[1]))
    ).fetchone()
    if row:
        vector = f"SELECT embedding FROM heal.{generation[1]} WHERE question_id = {row[0]}"
        query = f"SELECT {COLUMNS} FROM heal.search(({vector}), {generation[0]}, 5)"
        yield f"what answers the question “{row[1]}”:", query
