"""Questions in words with their answers, as SQL command lines to paste into a shell."""

import re
import subprocess
import textwrap

from heal_tasks.cli.base import console, print_line
from heal_tasks.core.environment import child_environment
from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection

COLUMNS = "left(title, 70) AS title, round(score::numeric, 2) AS score"
_UNSAFE = re.compile(r"[^\w\s,.?:;-]")  # a shell or SQL would need these characters quoted
DEMO_QUESTIONS = (
    "how do I split points into clusters",
    "compress an array before saving it to a file",
    "how do I read the rows of a query as dictionaries",
)
"""A person's questions about the demo's documents."""


def example_questions(conn: Connection, count: int) -> list[str]:
    """Questions to ask the live generation: the demo's own, or held-out questions where the documents are others."""
    if conn.execute("SELECT FROM heal.document WHERE title LIKE 'sklearn.%' AND deleted_at IS NULL LIMIT 1").rowcount:
        return list(DEMO_QUESTIONS[:count])
    rows = conn.execute(
        """SELECT text FROM (SELECT DISTINCT ON (chunk_id) * FROM heal.question ORDER BY chunk_id, question_id) q
        ORDER BY writer <> 'human', kind <> 'question', split NOT LIKE 'unseen%%', split = 'train', question_id
        LIMIT %s""",
        (count,),
    )
    return [text for (text,) in rows]


def print_examples(conn: Connection, database_url: str, psql: str, prefix: str, count: int = 3) -> None:
    """Ask some questions with ``heal.find`` and show command and rows; nothing while no generation is active.

    ``psql`` is the program as a person types it, ``prefix`` a command to type before it, for example
    ``. var/local.env; ``. The URL is passed in the environment: no password is shown.
    """
    if not conn.execute("SELECT FROM heal.generation WHERE state = 'active'").rowcount:
        return
    for question in example_questions(conn, count):
        text = textwrap.shorten(_UNSAFE.sub(" ", question), 120, placeholder="")
        command = f'{psql} "$HEAL_DATABASE_URL" -c "SELECT {COLUMNS} FROM heal.find(\'{text}\', 3)"'
        # Run as shown, except for the prefix, which sets the same variable.
        environment = child_environment(HEAL_DATABASE_URL=database_url)
        shell = ["/bin/sh", "-c", command]
        result = subprocess.run(shell, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise StoreError(f"the example query failed: {result.stderr.strip()}; the command was: {command}")
        console.print("\nSQL        by text alone, no model and no key:", style="bold")
        print_line(f"{prefix}{command}\n{result.stdout.rstrip()}")
