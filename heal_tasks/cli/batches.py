"""Command for batches of language-model calls: list those under way, cancel one."""

from typing import Annotated

import typer
from rich.table import Table

from heal_tasks.cli.base import app, console, print_line, settings_for_command
from heal_tasks.core.errors import InputError
from heal_tasks.core.log import format_duration
from heal_tasks.store.db import connect
from heal_tasks.store.llm.batches import BatchRepository


@app.command()
def batches(cancel: Annotated[str, typer.Option("--cancel", help="Id of a batch to cancel.")] = "") -> None:
    """Print the batches of language-model calls that are under way, or cancel one."""
    from heal_tasks.steps.writing.llm_batches import make_batch_api

    settings = settings_for_command()
    api, url = make_batch_api(settings), settings.llm_url
    with connect(settings.require_database_url(), autocommit=True) as conn:
        under_way = BatchRepository(conn, url).open()
    if cancel:
        known = [batch.batch_id for batch in under_way if batch.batch_id]
        if cancel not in known:
            raise InputError(f"no batch {cancel!r} is under way at {url}; under way: {', '.join(known) or '-'}")
        api.cancel(cancel)
        print_line(
            f"{cancel} is being cancelled; what it has answered is kept, and the task that waits for it asks about the "
            "rest one by one"
        )
    if not under_way:
        print_line(f"no batch is under way at {url}")
        return
    table = Table("batch", "run", "shard", "chunks", "answered", "failed", "state", "sent")
    for batch in under_way:
        job = api.job(batch.batch_id) if batch.batch_id else None
        table.add_row(
            batch.batch_id or batch.batch_key, batch.run_id, str(batch.shard), str(batch.texts),
            str(job.done) if job else "", str(job.failed) if job else "", job.status if job else batch.state,
            f"{format_duration(batch.age_s)} ago" if batch.age_s else "",
        )  # fmt: skip
    console.print(table)
