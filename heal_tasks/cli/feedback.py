"""Feedback, people's votes on answers: list and removal."""

import json
from typing import Annotated

import typer
from rich.table import Table

from heal_tasks.cli.base import app, console, print_line, settings_for_command
from heal_tasks.core.errors import InputError
from heal_tasks.store.db import connect
from heal_tasks.store.questions.feedback import FeedbackRepository

feedback_app = typer.Typer(no_args_is_help=True, help="List people's votes on answers, or remove a person's.")
app.add_typer(feedback_app, name="feedback")


@feedback_app.command("list")
def list_votes(as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines.")] = False) -> None:
    """Print all votes."""
    with connect(settings_for_command().require_database_url(), autocommit=True) as conn:
        votes = FeedbackRepository(conn).votes()
    table = Table("question", "document", "voter", "good", "given at")
    for vote in votes:
        if as_json:
            typer.echo(json.dumps(vote._asdict(), default=str))
        given_at = f"{vote.given_at:%Y-%m-%d %H:%M}"
        table.add_row(vote.question, vote.external_id, vote.voter, "yes" if vote.good else "no", given_at)
    if not votes:
        print_line("there is no feedback; docs/sql.md says how heal.feedback takes it")
    elif not as_json:
        console.print(table)


@feedback_app.command("remove")
def remove(voter: Annotated[str, typer.Option(help="The person, as `feedback list` prints it.")]) -> None:
    """Remove the votes of a person; the next run takes back the judgments that others do not support."""
    with connect(settings_for_command().require_database_url(), autocommit=True) as conn:
        removed = FeedbackRepository(conn).remove(voter)
    if not removed:
        raise InputError(f"there are no votes of {voter!r}; `python -m heal_tasks feedback list` prints all")
    print_line(f"{removed} votes of {voter} removed")
