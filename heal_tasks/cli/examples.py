"""Two real SQL queries, shown as a command line that can be pasted and run as shown, with their results."""

import re
import subprocess

from psycopg import sql
from rich.console import Console

from heal_tasks.cli.console import print_line
from heal_tasks.core.errors import StoreError
from heal_tasks.core.settings import child_environment
from heal_tasks.store.db import Connection

COLUMNS = "left(title, 70) AS title, round(distance::numeric, 3) AS distance"

# Inside double quotes a shell takes these for its own.
SHELL_SPECIAL = re.compile(r'["$`\\!]')


def print_examples(conn: Connection, database_url: str, psql: str, prefix: str, console: Console) -> None:
    """Show ``heal.similar`` for a document and ``heal.search`` with a stored question's vector.

    Neither needs an encoder. Nothing is shown while no generation is active.

    Args:
        conn: to the vector database.
        database_url: the same database; goes into the environment, so no password is shown.
        psql: the program, as it is to be typed.
        prefix: what has to be typed before, for example ``. var/local.env; ``; may be empty.
        console: where to.

    Raises:
        StoreError: psql failed.
    """
    queries = [query for query in (_similar(conn), _search(conn)) if query]
    for about, query in queries:
        if SHELL_SPECIAL.search(query):
            raise StoreError(f"query {query!r} cannot stand in double quotes in a shell; choose another document")
        command = f'{psql} "$HEAL_DATABASE_URL" -c "{query}"'
        environment = child_environment(HEAL_DATABASE_URL=database_url)
        # Run as shown; the prefix only sets what the environment has already.
        shell = ["/bin/sh", "-c", command]
        result = subprocess.run(shell, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise StoreError(f"the example query failed: {result.stderr.strip()}; the command was: {command}")
        console.print(f"\n[bold]SQL[/]        {about}", highlight=False)
        for text in (f"{prefix}{command}", result.stdout.rstrip()):
            print_line(console, text)


def _similar(conn: Connection) -> tuple[str, str] | None:
    """The documents nearest to one that people know, or else to any."""
    row = conn.execute(
        """SELECT substring(d.title FROM '^[A-Za-z0-9_. ]+')
           FROM heal.embedding e JOIN heal.document d USING (document_id)
           WHERE d.title ~ '^[A-Za-z0-9_. ]{3,}'
           ORDER BY d.title LIKE 'sklearn.cluster.KMeans(%' DESC, d.title LIKE 'sklearn.cluster.%' DESC, d.title
           LIMIT 1"""
    ).fetchone()
    if row is None:
        return None
    # A title's pattern, not an id: it is what a person would type.
    query = (
        f"SELECT {COLUMNS} FROM heal.similar("
        f"(SELECT document_id FROM heal.document WHERE title LIKE '{row[0]}%' ORDER BY title LIMIT 1), 5)"
    )
    return "what is similar to a document:", query


def _search(conn: Connection) -> tuple[str, str] | None:
    """A held-out question answered by its vector, as the active generation's encoder made it."""
    generation = conn.execute(
        "SELECT generation_id, heal.vector_table(generation_id, 'question') FROM heal.generation WHERE state = 'active'"
    ).fetchone()
    if generation is None:
        return None
    table = sql.Identifier("heal", generation[1])
    row = conn.execute(
        sql.SQL(
            "SELECT q.question_id, q.text FROM heal.question q JOIN {} USING (question_id) "
            "ORDER BY q.kind <> 'question', q.split NOT LIKE 'unseen%', q.split = 'train', q.question_id LIMIT 1"
        ).format(table)
    ).fetchone()
    if row is None:
        return None
    query = (
        f"SELECT {COLUMNS} FROM heal.search("
        f"(SELECT embedding FROM heal.{generation[1]} WHERE question_id = {row[0]}), {generation[0]}, 5)"
    )
    return f"what answers the question “{row[1]}”:", query
