"""``python -m heal_tasks``: the entry point, and the groups of commands.

A command imports what it needs when it runs: the image of Airflow's components has neither torch nor openai.
"""

import typer

# Importing a module registers its commands.
from heal_tasks.cli import (  # noqa: F401
    doctor,
    judgments,
    machine_commands,
    questions,
    run_commands,
    search_commands,
    settings_page,
    store_commands,
    topics,
)
from heal_tasks.cli.base import app
from heal_tasks.core.errors import HealError


def main() -> None:
    """Run the command line; a HealError becomes one line and exit code 1."""
    try:
        app()
    except HealError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise SystemExit(1) from None
