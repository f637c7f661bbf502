"""The demo of adoption: a table of LangChain's is adopted, aligned and searched, without Airflow.

The texts lack the names and summaries of what they describe, and the questions have these words, as where people ask
for things by other words than the articles use. Questions are made from the documentation; nobody has asked them.
"""

import logging
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
from psycopg import sql
from pydantic import SecretStr
from rich.table import Table

from heal_tasks.cli.adopt import print_adoption
from heal_tasks.cli.base import app, console, new_run_id, print_line
from heal_tasks.cli.machine_commands import PANEL, machine_settings, say, short_path
from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import stable_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.core.settings import Settings
from heal_tasks.local import langchain_table
from heal_tasks.local.databases import DEMO, prepare_vectors, stack_lock, start_server, vector_database
from heal_tasks.local.langchain_table import TABLE
from heal_tasks.local.postgres import USER, EmbeddedPostgres
from heal_tasks.questions.splits import judgment_split
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.questions.questions import HUMAN, QuestionRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

VIEW = "heal.served_as_langchain"
K, SHOWN = 10, 3
MOVED = "No held-out question has moved a row; others about the same rows have, and those ask in similar words."
QUICK = {"topic_depth": 1, "topic_max_k": 5, "topic_perturbations": 6, "questions_per_chunk": 1}
"""Fewer topics and written questions than by default: neither decides here, so they shall take no time."""


class Found(NamedTuple):
    """A held-out question with the place of its row among the nearest ones, from 1; 0 if it is not among them."""

    question: str
    before: int
    after: int

    @property
    def gain(self) -> int:
        """Places by which the row is nearer after than before."""
        return (self.before or K + 1) - (self.after or K + 1)


@app.command(rich_help_panel=PANEL)
def demo_adopt() -> None:
    """Adopt a table of LangChain's with 1,500 rows, align its vectors, and search table and view by one query."""
    from heal_tasks.steps.adopting.adopt import adopt_table
    from heal_tasks.steps.adopting.presets import Columns
    from heal_tasks.steps.engine.road import load_step, run_pipeline
    from heal_tasks.training.encoder import Encoder  # torch: 5 s

    settings = machine_settings()
    logging.getLogger("heal_tasks").setLevel(logging.WARNING)  # the note of each step is shown below
    with stack_lock(settings, say):
        server = start_server(settings, say)
        if embedded := vector_database(settings)[1]:  # else the vector database is somebody's own, and left alone
            prepare_vectors(settings, say)
        say(f"making database {DEMO} in the embedded Postgres")
        url = langchain_table.new_database(server, say)
    # The packaged model and the extractive writer: the demo sends nothing anywhere.
    alone = {"model": PACKAGED_MODEL, "dimensions": 0, "llm_api_key": None, "llm_base_url": None, "source_roots": ()}
    settings = settings.model_copy(update={**alone, **QUICK, "database_url": SecretStr(url)})
    rows = langchain_table.rows_to_store(settings)
    say(f"filling {TABLE} as LangChain does: {len(rows)} texts, embedded by {PACKAGED_MODEL}")
    vectors = Encoder(resolve_model(PACKAGED_MODEL), device=settings.device).encode([row.text for row in rows])
    langchain_table.fill_table(url, rows, vectors)
    say(f"python -m heal_tasks adopt {TABLE} --model {PACKAGED_MODEL}")
    made = adopt_table(settings, TABLE, Columns(), model=PACKAGED_MODEL)
    print_adoption(made)
    settings = settings.model_copy(update={"sources": (made.adopted.source,)})
    say("python -m heal_tasks ingest")
    run_id = new_run_id("demo")
    load_step("ingest").run_to_end(settings, Manifest(run_id=run_id))
    asked = [(question, row.key) for row in rows for question in row.questions]
    say(f"python -m heal_tasks judgments: {len(asked)} questions, made from summaries and names that the texts lack")
    with connect(url, autocommit=True) as conn:
        QuestionRepository(conn).import_judgments(
            made.adopted.source, asked, lambda document, query: judgment_split(document, stable_id(query))
        )
    say("python -m heal_tasks run")
    run_pipeline(settings, run_id, lambda step: say(f"{step.step}: {step.note}"))
    with connect(url) as conn:
        _print_comparison(settings, conn)
    say(f"table and schema heal are in database {DEMO} of the embedded server, until the next demo-adopt; to open it:")
    print_line(how_to_open(settings.var_dir, embedded))
    print_line("`python -m heal_tasks down` stops the server; all data stays.")


def how_to_open(var_dir: Path, embedded: bool) -> str:
    """Commands for a shell that open the demo's database, without a password in them.

    ``embedded``: ``local.env`` has the URL of the embedded server's main database.
    """
    psql = short_path(EmbeddedPostgres.bin("psql"))
    if not embedded:
        password, port = (f'"$(cat "{short_path(var_dir)}/postgres.{name}")"' for name in ("password", "port"))
        return f"PGPASSWORD={password} {psql} -h 127.0.0.1 -p {port} -U {USER} {DEMO}"
    local_env = shlex.quote(short_path(var_dir / "local.env"))
    return (
        f'. {local_env}; export HEAL_DATABASE_URL="${{HEAL_DATABASE_URL%/*}}/{DEMO}"\n'
        f'{psql} "$HEAL_DATABASE_URL"\npython -m heal_tasks status'
    )


def _print_comparison(settings: Settings, conn: Connection) -> None:
    """Show what the same query finds in the table and in the view."""
    found = compared(settings, conn)
    table = Table("nearest 10 rows of", f"find the row of {len(found)} held-out questions", "as the first one")
    for name, places in ((TABLE, [item.before for item in found]), (VIEW, [item.after for item in found])):
        table.add_row(name, f"{np.mean(np.array(places) > 0):.1%}", f"{np.mean(np.array(places) == 1):.1%}")
    console.print(table)
    live = GenerationRepository(conn).active()
    if live is None or live.nudge is None:
        print_line("No row has been moved.")
    else:
        print_line(MOVED)
    gained = sorted((item for item in found if item.gain > 0), key=lambda item: -item.gain)
    for item in gained[:SHOWN]:
        print_line(f"{item.question!r}: place {item.before or 'beyond 10'} before, {item.after or 'beyond 10'} after")


def compared(settings: Settings, conn: Connection) -> list[Found]:
    """Search the table and the view by the vectors of the imported questions that are held out for tests."""
    space = SpaceRepository(conn).find_by_uri(settings.model_uri)
    if space is None:
        raise StepError("the run has embedded no question, so there is nothing to compare")
    query = sql.SQL(
        "SELECT q.text, d.external_id, v.embedding FROM heal.question q "
        "JOIN {} v USING (question_id) JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id) "
        "WHERE q.writer = %s AND q.split IN ('seen_test', 'unseen_test') ORDER BY q.question_id"
    ).format(space.table("question"))
    rows = conn.execute(query, (HUMAN,)).fetchall()

    def place(name: str, key: str, vector: object) -> int:
        nearest = sql.SQL("SELECT langchain_id::text FROM {} ORDER BY embedding <=> %s LIMIT {}").format(
            sql.Identifier(*name.split(".")), K
        )
        ids = [row for (row,) in conn.execute(nearest, (vector,))]
        return ids.index(key) + 1 if key in ids else 0

    return [Found(text, place(TABLE, key, vector), place(VIEW, key, vector)) for text, key, vector in rows]
