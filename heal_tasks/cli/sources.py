"""Command that lists the sources that are defined and tries each."""

import time
from typing import Annotated

import typer

from heal_tasks.cli.base import app, print_line, settings_for_command
from heal_tasks.core.errors import HealError, InputError
from heal_tasks.core.settings import Settings
from heal_tasks.core.source_settings import NO_SOURCE
from heal_tasks.core.specs import SOURCE

TRY_S = 10.0
"""A listing that takes longer is not waited for: of a site it may take hours."""
SHOWN = 5


@app.command()
def sources(
    name: Annotated[str, typer.Argument(help="One source only, by its spec or the name of its table.")] = "",
) -> None:
    """List every source that is defined, and try it: whether it is reachable, its number of files, the first names."""
    settings = settings_for_command()
    defined = dict.fromkeys((*settings.sources, *(f"{SOURCE}{table}" for table in settings.source_tables)))
    chosen = [spec for spec in defined if name in ("", spec, spec.removeprefix(SOURCE))]
    if not defined:
        raise InputError(NO_SOURCE)
    if not chosen:
        raise InputError(f"there is no source {name!r}; defined are {', '.join(defined)}")
    failed = False
    for spec in chosen:
        table = settings.source_tables.get(spec.removeprefix(SOURCE)) if spec.startswith(SOURCE) else None
        place = f" ({table.kind} {table.location or 'query'})" if table else ""
        unused = "" if spec in settings.sources else "; HEAL_SOURCES does not name it, so no run reads it"
        try:
            found = _tried(settings, spec)
        except HealError as error:
            failed, found = True, f"FAILED: {error}"
        print_line(f"{spec}{place}: {found}{unused}")
    if failed:
        raise typer.Exit(1)


def _tried(settings: Settings, spec: str) -> str:
    """The number of files and the first names."""
    from heal_tasks.sources.parse import PARSERS, kind_of
    from heal_tasks.steps.reading.opening import opening_sources

    names, others, more, ends = list[str](), 0, "", time.monotonic() + TRY_S
    with opening_sources(settings) as open_source:
        for file in open_source(spec).list_files():
            if file.left_out or kind_of(file) not in PARSERS:
                others += 1
            else:
                names.append(file.path)
            if time.monotonic() > ends:
                more = f" in {TRY_S:g} seconds, and more"
                break
    skipped = f", {others} others that are skipped" if others else ""
    shown = f": {', '.join(names[:SHOWN])}{', …' * (len(names) > SHOWN)}" if names else ""
    return f"{len(names)} files{skipped}{more}{shown}"
