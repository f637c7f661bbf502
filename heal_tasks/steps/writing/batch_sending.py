"""Sends a batch so that a kill at any moment leaves nothing, or a batch that is found again, and waits for batches."""

import tempfile
from collections.abc import Callable, Collection, Sequence
from typing import Any
from uuid import uuid4

from heal_tasks.core.errors import HealError, RetryableError
from heal_tasks.questions.llm.batch_api import BatchApi
from heal_tasks.steps.engine.runner import Context, Waiting
from heal_tasks.steps.writing.batch_collector import BATCH_WAIT_S, BatchCollector
from heal_tasks.store.llm.batches import Batch, BatchRepository

BATCH_POLL_S = 60.0
"""Time between two looks at a batch, in seconds; most batches take minutes, and a look costs one request."""


def send_batch(
    context: Context,
    api: BatchApi,
    store: BatchRepository,
    collector: BatchCollector[Any],
    about: tuple[str, str],
    texts: Sequence[tuple[str, int]],
    line: Callable[[str], bytes],
    free: Callable[[list[int]], None],
    counts: dict[str, float] | None = None,
) -> None:
    """Send one batch.

    Args:
        context: of the step.
        api: the endpoint.
        store: batches at that endpoint.
        collector: withdraws a batch that the endpoint has refused.
        about: the model, and the hash of the prompt or of the model.
        texts: hash and number of each text.
        line: makes the line of a hash for the file.
        free: told the numbers of texts that are in another task's batch, and not sent.
        counts: what the batch has counted before its replies.
    """
    key = uuid4().hex
    with store.holding(key):
        batch = Batch(key, context.run_id, context.shard, *about, counts=counts or {})
        mine = store.plan(batch, texts)
        free([number for text, number in texts if text not in mine])
        if not mine:
            return
        try:
            with tempfile.TemporaryFile() as file:
                file.writelines(line(text) for text, _ in texts if text in mine)
                file.seek(0)
                file_id = api.upload(key, file)
            store.sending(key, file_id)
            batch_id = api.create(key, file_id)
        except RetryableError:
            # It may have been created all the same: the next attempt looks for it.
            raise
        except HealError:
            collector.withdraw(key)
            raise
        store.sent(key, batch_id)
    context.log.info("sent %d texts as batch %s", len(mine), batch_id)


def waiting_for(store: BatchRepository, what: str, keys: Collection[str], endpoint: str) -> Waiting:
    """The wait for open batches by their keys; ``what`` is in them, ``endpoint`` is that of ``Waiting``."""
    found = [batch for batch in store.open() if batch.batch_key in keys]
    ids = [batch.batch_id for batch in found if batch.batch_id]
    wait_s = min((max(BATCH_POLL_S, BATCH_WAIT_S - batch.age_s) for batch in found), default=0.0)
    message = f"waiting for {what} in {len(found)} batches ({', '.join(ids)}) at {store.endpoint}"
    wait_s = wait_s if len(ids) == len(found) else BATCH_POLL_S
    return Waiting(message, ids, poll_s=BATCH_POLL_S, wait_s=wait_s, endpoint=endpoint)
