"""The command that adopts a table which another application has filled with texts and vectors."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from heal_tasks.cli.base import app, print_line, settings_for_command
from heal_tasks.steps.adopting.presets import PRESETS, Columns

if TYPE_CHECKING:
    from heal_tasks.steps.adopting.adopt import Adoption


@app.command()
def adopt(
    table: Annotated[str, typer.Argument(help="SCHEMA.TABLE in the database of HEAL_DATABASE_URL; it is only read.")],
    preset: Annotated[str, typer.Option(help=f"The client that made it: {', '.join(PRESETS)}.")] = "",
    id_column: Annotated[str, typer.Option("--id", help="Column of unique ids.")] = "",
    text: Annotated[str, typer.Option(help="Column of texts.")] = "",
    vector: Annotated[str, typer.Option(help="Column of vectors.")] = "",
    metadata: Annotated[str, typer.Option(help="Column of metadata, json or jsonb.")] = "",
    updated_at: Annotated[
        str, typer.Option("--updated-at", help="Column that changes with a row; else texts are hashed.")
    ] = "",
    collection: Annotated[str, typer.Option(help="Name of a collection of LangChain's PGVector.")] = "",
    model: Annotated[str, typer.Option(help="Model of the vectors, as in HEAL_MODEL; else it is found out.")] = "",
    more_than_text: Annotated[
        bool, typer.Option("--more-than-text", help="The application embeds more than the text, such as a title.")
    ] = False,
    queries_by_serve: Annotated[
        bool,
        typer.Option("--queries-by-serve", help="Clients encode queries by `serve`, so a trained model may go live."),
    ] = False,
) -> None:
    """Take over the texts and vectors of a table that another application fills, without embedding anything."""
    from heal_tasks.steps.adopting.adopt import adopt_table

    columns = Columns(id_column, text, vector, metadata, updated_at)
    made = adopt_table(
        settings_for_command(), table, columns, preset=preset, collection=collection, model=model,
        more_than_text=more_than_text, own_queries=not queries_by_serve,
    )  # fmt: skip
    print_adoption(made)
    print_line("next       python -m heal_tasks plan, then python -m heal_tasks run, or the DAG heal_realign")


def print_adoption(made: "Adoption") -> None:
    """Print what was found about a table, and the settings that read it."""
    for line in made.lines():
        print_line(line)
    print_line("set        " + " ".join(f"{name}={shlex.quote(value)}" for name, value in made.settings.items()))
