"""Commands for the store: settings, checks, schema, state, switch and maintenance."""

from typing import Annotated

import typer
from rich.table import Table

from heal_tasks.cli.base import app, console, new_run_id, settings_for_command
from heal_tasks.cli.console import print_line
from heal_tasks.core.log import format_duration
from heal_tasks.core.manifest import Manifest
from heal_tasks.steps.engine import road

MARKS = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "fail": "[red]FAIL[/]"}


@app.command()
def status() -> None:
    """Print what runs on this machine, the generations, what is not served yet, and the latest runs."""
    from heal_tasks.local.stack import status as stack_status
    from heal_tasks.nudge.plan import NudgeRecord
    from heal_tasks.store.db import connect
    from heal_tasks.store.documents.corpus import Corpus
    from heal_tasks.store.generations.generations import GenerationRepository
    from heal_tasks.store.runs.runs import RunRepository
    from heal_tasks.store.spaces.spaces import SpaceRepository

    settings = settings_for_command()
    for line in stack_status(settings).lines():
        console.print(line, markup=False, highlight=False)
    with connect(settings.require_database_url()) as conn:
        generations, spaces = GenerationRepository(conn), SpaceRepository(conn)
        table = Table("generation", "state", "dimensions", "NUDGE", "recall@10", "activated", "model")
        for item in generations.list("active", "previous", "ready", "building"):
            record = NudgeRecord.from_json(item.nudge) if item.nudge else None
            table.add_row(
                str(item.generation_id), item.state, str(item.dims),
                f"{record.variant} {record.theta:.2f}" if record else "none",
                "" if item.recall is None else f"{item.recall:.3f}",
                f"{item.activated_at:%Y-%m-%d %H:%M}" if item.activated_at else "",
                spaces.get(item.space_id).model_uri,
            )  # fmt: skip
        console.print(table)
        active = generations.active()
        pending = Corpus(conn).pending(active.generation_id if active else None, None)
        console.print(f"{pending.documents} documents; {pending.chunks} chunks not served yet")
        runs = Table("run", "route", "started", "took", "verdict")
        for row in RunRepository(conn).recent_runs(10):
            took = format_duration((row.finished_at - row.started_at).total_seconds()) if row.finished_at else "running"
            verdict = (row.verdict or "").split("\n")[0]
            runs.add_row(row.run_id, row.route or "", f"{row.started_at:%Y-%m-%d %H:%M}", took, verdict)
        console.print(runs)


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md instead.")] = False,
) -> None:
    """Print every setting with its value; secrets are masked."""
    from heal_tasks.cli.settings_page import markdown_page, shown

    if markdown:
        typer.echo(markdown_page(), nl=False)
        return
    for name, value in settings_for_command():
        print_line(console, f"HEAL_{name.upper()}={shown(value)}")


@app.command()
def doctor() -> None:
    """Check database, sources, model, LLM, artifacts, disk, GPU and Airflow; say what to do about each failure."""
    from heal_tasks.cli.doctor import examine

    failed = False
    for finding in examine(settings_for_command()):
        console.print(MARKS[finding.level], finding.subject.ljust(10), end=" ")
        print_line(console, finding.text)
        failed = failed or finding.level == "fail"
    raise typer.Exit(1 if failed else 0)


@app.command()
def migrate() -> None:
    """Create or update schema heal in the database."""
    from heal_tasks.store.db import connect
    from heal_tasks.store.migrate import migrate as apply_migrations

    with connect(settings_for_command().require_database_url()) as conn:
        console.print(", ".join(apply_migrations(conn)) or "schema heal is up to date")


@app.command()
def activate(generation: Annotated[int, typer.Argument(help="Generation to activate; 0 rolls back.")] = 0) -> None:
    """Promote a ready generation, or roll back to the previous one."""
    manifest = Manifest(run_id=new_run_id("activate"), refs={"generation_id": generation})
    console.print(road.load_step("activate").run(settings_for_command(), manifest).note)


@app.command()
def maintain() -> None:
    """Drop old generations and files, vacuum, measure the recall of what is served."""
    manifest = Manifest(run_id=new_run_id("maintain"))
    console.print(road.load_step("maintain").run(settings_for_command(), manifest).note, markup=False)
