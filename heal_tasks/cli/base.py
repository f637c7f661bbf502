"""The parts that all commands share: the Typer app, the console, the settings, run ids."""

import io
import logging
import os
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from heal_tasks import __version__
from heal_tasks.core.corpora import enter_corpus
from heal_tasks.core.errors import HealError, InputError, StoreError
from heal_tasks.core.files import PRIVATE_UMASK
from heal_tasks.core.log import configure_logging
from heal_tasks.core.redaction import redacted, redacted_traceback
from heal_tasks.core.settings import Settings, load_settings, unknown_variables
from heal_tasks.core.text import printable

app = typer.Typer(
    name="heal_tasks",
    help="Keeps a pgvector store aligned with its owner's documents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class _Terminal(Console):
    """A console that shows the text of documents, of language models and of servers without control characters."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.is_control else segment._replace(text=printable(segment.text))


# Brackets in the text of a document are no markup, numbers no colours.
console = _Terminal(emoji=False, markup=False, highlight=False)
if not console.is_terminal:
    console.width = 130  # Rich assumes 80 columns in a pipe, too few for the report's tables.


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"heal_tasks {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    corpus: Annotated[str, typer.Option(help="Work on this corpus, with the settings of corpora/NAME.env.")] = "",
) -> None:
    del version
    if corpus:
        enter_corpus(corpus)


_UNDEFINED = ("42P01", "42883", "42703", "3F000")
"""States of SQL for a table, function, column or schema that is not there."""
_OURS = re.compile(r"\bheal\b")

RunId = Annotated[str, typer.Option("--run-id", help="Run to work in; the latest one if left out.")]


def print_line(text: str) -> None:
    """Print a line without breaking it, and without passwords and keys."""
    console.print(redacted(text), soft_wrap=True)


def settings_for_command() -> Settings:
    """The settings of the environment, with logging set up."""
    settings = load_settings()
    configure_logging(settings.log_level)
    for sentence in unknown_variables(settings.var_dir):
        logging.getLogger(__name__).warning(sentence)
    return settings


def new_run_id(kind: str) -> str:
    """A run id of this moment, unique to the microsecond."""
    return f"{kind}__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"


def main() -> None:
    """Run the command line; a HealError, or a fault of disk or database, becomes one line and exit code 1."""
    os.umask(PRIVATE_UMASK)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for the letters that a terminal of another encoding lacks
    try:
        app()
    except Exception as error:
        if (named := _named(error)) is None:
            typer.secho(printable(redacted_traceback(error)), err=True)
            raise SystemExit(1) from None
        typer.secho(printable(f"error: {named}"), fg="red", err=True)
        raise SystemExit(1) from None


def _named(error: Exception) -> HealError | None:
    import psycopg  # most commands have loaded it already

    from heal_tasks.steps.engine.faults import named_fault

    if isinstance(error, HealError):
        return (isinstance(error.__cause__, psycopg.Error) and outdated(error.__cause__)) or error
    if isinstance(error, UnicodeEncodeError):
        return InputError(f"an argument has bytes that are no UTF-8 text: {error.object!r}")
    if isinstance(error, psycopg.errors.NumericValueOutOfRange):
        return InputError(f"a number is too large: {str(error).partition(chr(10))[0]}")
    return outdated(error) or named_fault(error, " ".join(sys.argv[1:2]) or "heal_tasks")


def described(error: Exception, settings: Settings) -> str:
    """An error as a finding: a cure for an old schema, else its type and text; without passwords and keys."""
    return redacted(str(outdated(error, settings) or f"{type(error).__name__}: {error}"))


def outdated(error: Exception, settings: Settings | None = None) -> HealError | None:
    """The error of a database without this version's schema heal, with its cure; None if something else is wrong.

    The schema is compared, because the message about a column does not say whose it is. A user who may not read the
    record of migrations is believed to miss what the message names.
    """
    import psycopg

    from heal_tasks.store.db import connect
    from heal_tasks.store.migrate import MIGRATE, schema_gap

    if not isinstance(error, psycopg.Error) or error.sqlstate not in _UNDEFINED:
        return None
    line = str(error).partition("\n")[0]
    try:
        with connect((settings or load_settings()).require_database_url(), vectors=False) as conn:
            gap = schema_gap(conn)
    except (HealError, psycopg.Error):
        gap = f"the database has no schema heal, or an older one; {MIGRATE}" if _OURS.search(line) else ""
    return StoreError(f"{gap} ({line})") if gap else None
