"""Two SQL queries with their results, as command lines to paste into a shell."""

import subprocess

from psycopg import sql
from rich.console import Console

from heal_tasks.cli.base import print_line
from heal_tasks.core.errors import StoreError
from heal_tasks.core.settings import child_environment
from heal_tasks.store.db import Connection

COLUMNS = "left(title, 70) AS title, round(distance::numeric, 3) AS distance"


def print_examples(conn: Connection, database_url: str, psql: str, prefix: str, console: Console) -> None:
    """Show ``heal.similar`` for a document and ``heal.search`` with a stored question's vector; no encoder is needed.

    Nothing is shown while no generation is active. ``psql`` is the program as a person types it, ``prefix`` a command
    to type before it, for example ``. var/local.env; ``. The URL is passed in the environment: no password is shown.

    Raises:
        StoreError: psql failed.
    """
    for about, query in filter(None, (_similar(conn), _search(conn))):
        command = f'{psql} "$HEAL_DATABASE_URL" -c "{query}"'
        # Run as shown, except for the prefix, which sets the same variable.
        environment = child_environment(HEAL_DATABASE_URL=database_url)
        shell = ["/bin/sh", "-c", command]
        result = subprocess.run(shell, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise StoreError(f"the example query failed: {result.stderr.strip()}; the command was: {command}")
        console.print(f"\n[bold]SQL[/]        {about}", highlight=False)
        print_line(console, f"{prefix}{command}\n{result.stdout.rstrip()}")


def _similar(conn: Connection) -> tuple[str, str] | None:
    """Documents similar to a well-known one, or to any other if it is not there."""
    row = conn.execute(
        """SELECT substring(d.title FROM '^[A-Za-z0-9_. ]+')
           FROM heal.embedding e JOIN heal.document d USING (document_id)
           WHERE d.title ~ '^[A-Za-z0-9_. ]{3,}'
           ORDER BY d.title LIKE 'sklearn.cluster.KMeans(%' DESC, d.title LIKE 'sklearn.cluster.%' DESC, d.title
           LIMIT 1"""
    ).fetchone()
    if row is None:
        return None
    # A pattern of the title, because a person does not know ids.
    query = (
        f"SELECT {COLUMNS} FROM heal.similar("
        f"(SELECT document_id FROM heal.document WHERE title LIKE '{row[0]}%' ORDER BY title LIMIT 1), 5)"
    )
    return "what is similar to a document:", query


def _search(conn: Connection) -> tuple[str, str] | None:
    """Answers to a held-out question by its stored vector."""
    generation = conn.execute(
        "SELECT generation_id, heal.space_table(space_id, 'question') FROM heal.generation WHERE state = 'active'"
    ).fetchone()
    if generation is None:
        return None
    row = conn.execute(
        sql.SQL(
            "SELECT q.question_id, q.text FROM heal.question q JOIN {} USING (question_id) "
            "ORDER BY q.kind <> 'question', q.split NOT LIKE 'unseen%', q.split = 'train', q.question_id LIMIT 1"
        ).format(sql.Identifier("heal", generation[1]))
    ).fetchone()
    if row is None:
        return None
    query = (
        f"SELECT {COLUMNS} FROM heal.search("
        f"(SELECT embedding FROM heal.{generation[1]} WHERE question_id = {row[0]}), {generation[0]}, 5)"
    )
    return f"what answers the question “{row[1]}”:", query
