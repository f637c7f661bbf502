"""Commands for the store: state, batches under way, schema, switch and maintenance."""

from collections.abc import Collection
from typing import Annotated

import typer
from rich.table import Table

from heal_tasks.cli.base import app, console, new_run_id, print_line, settings_for_command
from heal_tasks.core.errors import InputError
from heal_tasks.core.log import format_duration
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import api_model
from heal_tasks.local import stack
from heal_tasks.steps.engine import road
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.llm.batches import BatchRepository
from heal_tasks.store.migrate import migrate as apply_migrations
from heal_tasks.store.migrate import migrate_corpora
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository


@app.command()
def status() -> None:
    """Print the parts of this machine, the generations, the number of unserved chunks, and the latest runs."""
    settings = settings_for_command()
    for line in stack.status(settings).lines():
        print_line(line)
    generations = Table("generation", "state", "dimensions", "NUDGE", "recall@10", "activated", "model")
    runs = Table("run", "route", "started", "took", "verdict")
    with connect(settings.require_database_url()) as conn:
        working = RunRepository(conn).working_runs()
        for item in GenerationRepository(conn).list("active", "previous", "ready", "building"):
            generations.add_row(
                str(item.generation_id), _state(item, working), str(item.dims),
                f"{item.nudge['variant']} {item.nudge['theta']:.2f}" if item.nudge else "none",
                "" if item.recall is None else f"{item.recall:.3f}" if item.index_kind != "none" else "no index",
                f"{item.activated_at:%Y-%m-%d %H:%M}" if item.activated_at else "",
                SpaceRepository(conn).get(item.space_id).model_uri,
            )  # fmt: skip
        active = GenerationRepository(conn).active()
        pending = Corpus(conn).pending(active.generation_id if active else None, None)
        for row in RunRepository(conn).recent_runs(10):
            took = "running" if row.run_id in working else "not running"
            if row.finished_at:
                took = format_duration((row.finished_at - row.started_at).total_seconds())
            verdict = (row.verdict or "").partition("\n")[0] if row.finished_at else _progress(conn, row.run_id)
            runs.add_row(row.run_id, row.route or "", f"{row.started_at:%Y-%m-%d %H:%M}", took, verdict)
    console.print(generations)
    console.print(f"{pending.documents} documents; {pending.chunks} chunks not served yet")
    console.print(runs)


def _state(generation: Generation, working: Collection[str]) -> str:
    """The state of a generation, and whether no process works on one that is building."""
    idle = generation.state == "building" and generation.run_id not in working
    return "building, no process" if idle else generation.state


def _progress(conn: Connection, run_id: str) -> str:
    """The step that a run has come to, with its message."""
    steps = RunRepository(conn).steps_of(run_id)
    row = next((row for row in steps if row.finished_at is None), steps[-1] if steps else None)
    if row is None:
        return "no step has begun"
    return f"{row.step} has ended" if row.finished_at else f"{row.step}: {row.message or 'has begun'}"


@app.command()
def batches(cancel: Annotated[str, typer.Option("--cancel", help="Id of a batch to cancel.")] = "") -> None:
    """Print the batches of language-model calls and of texts to embed that are under way, or cancel one."""
    from heal_tasks.steps.vectors.embedding_batches import embedding_batches_url, make_embedding_batch_api
    from heal_tasks.steps.writing.llm_batches import make_batch_api

    settings = settings_for_command()
    apis = {settings.llm_url: make_batch_api(settings)}
    if api_model(settings.model):
        apis[embedding_batches_url(settings)] = make_embedding_batch_api(settings)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        under_way = [(api, batch) for url, api in apis.items() for batch in BatchRepository(conn, url).open()]
    where = " or ".join(apis)
    if cancel:
        known = {batch.batch_id: api for api, batch in under_way if batch.batch_id}
        if cancel not in known:
            raise InputError(f"no batch {cancel!r} is under way at {where}; under way: {', '.join(known) or '-'}")
        known[cancel].cancel(cancel)
        print_line(
            f"{cancel} is being cancelled; what it has answered is kept, and the task that waits for it asks about the "
            "rest one by one"
        )
    if not under_way:
        print_line(f"no batch is under way at {where}")
        return
    table = Table("batch", "run", "shard", "texts", "answered", "failed", "state", "sent")
    for api, batch in under_way:
        job = api.job(batch.batch_id) if batch.batch_id else None
        table.add_row(
            batch.batch_id or batch.batch_key, batch.run_id, str(batch.shard), str(batch.texts),
            str(job.done) if job else "", str(job.failed) if job else "", job.status if job else batch.state,
            f"{format_duration(batch.age_s)} ago" if batch.age_s else "",
        )  # fmt: skip
    console.print(table)


@app.command()
def migrate() -> None:
    """Create or update schema heal in the database, and in those of all corpora, which are made if they are missing."""
    settings = settings_for_command()
    with connect(settings.require_database_url()) as conn:
        console.print(", ".join(apply_migrations(conn)) or "schema heal is up to date")
    for name, applied in [] if settings.corpus else migrate_corpora(settings.require_database_url()):
        console.print(f"corpus {name}: {', '.join(applied) or 'schema heal is up to date'}")


@app.command()
def activate(generation: Annotated[int, typer.Argument(help="Generation to activate; 0 rolls back.")] = 0) -> None:
    """Promote a ready generation, or roll back to the previous one."""
    _run_alone("activate", generation_id=generation)


@app.command()
def maintain() -> None:
    """Drop old generations and files, vacuum, measure the recall of the served indexes."""
    _run_alone("maintain")


def _run_alone(name: str, **refs: int | str) -> None:
    manifest = Manifest(run_id=new_run_id(name), refs=refs)
    print_line(road.load_step(name).run(settings_for_command(), manifest).note)
