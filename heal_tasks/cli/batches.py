"""Commands for batches of language-model calls: list those under way, cancel one."""

from rich.console import Console
from rich.table import Table

from heal_tasks.cli.console import print_line
from heal_tasks.core.errors import InputError
from heal_tasks.core.log import format_duration
from heal_tasks.core.settings import Settings
from heal_tasks.steps.writing.llm_batches import make_batch_api
from heal_tasks.store.db import connect
from heal_tasks.store.llm.batches import Batch, BatchRepository


def print_batches(settings: Settings, console: Console) -> None:
    """Print the progress of the batches at the configured endpoint that are not collected yet."""
    table = Table("batch", "run", "shard", "chunks", "answered", "failed", "state", "sent")
    api = make_batch_api(settings)
    for batch in _open(settings):
        job = api.job(batch.batch_id) if batch.batch_id else None
        table.add_row(
            batch.batch_id or batch.batch_key, batch.run_id, str(batch.shard), str(batch.texts),
            str(job.done) if job else "", str(job.failed) if job else "", job.status if job else batch.state,
            f"{format_duration(batch.age_s)} ago" if batch.age_s else "",
        )  # fmt: skip
    if table.row_count:
        console.print(table)
    else:
        print_line(console, f"no batch is under way at {settings.llm_url}")


def cancel_batch(settings: Settings, console: Console, batch_id: str) -> None:
    """Cancel a batch at the endpoint; the task that waits for it collects its replies.

    Args:
        settings: all settings.
        console: for the message.
        batch_id: the endpoint's name of the batch.

    Raises:
        InputError: no such batch is under way.
    """
    known = [batch.batch_id for batch in _open(settings) if batch.batch_id]
    if batch_id not in known:
        raise InputError(
            f"no batch {batch_id!r} is under way at {settings.llm_url}; under way: {', '.join(known) or '-'}"
        )
    make_batch_api(settings).cancel(batch_id)
    print_line(
        console,
        f"{batch_id} is being cancelled; what it has answered is kept, and the task that waits for it asks about the "
        "rest one by one",
    )


def _open(settings: Settings) -> list[Batch]:
    with connect(settings.require_database_url(), autocommit=True) as conn:
        return BatchRepository(conn, settings.llm_url).open()
