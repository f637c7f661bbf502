"""The task that writes questions: it may send them away in a batch, and waits for that without a worker's slot.

The provider common.ai has ``LLMBatchOperator``, which defers and re-attaches, too (read in 1.0.0). It is not used. It
knows a batch by DAG run and task, so a later run cannot find what an earlier one has paid. Its rows have neither the
hash of a text nor the tokens of a failed call, so it can keep neither cache nor ledger. It works from Airflow alone, in
whose connections the key would lie a second time, and brings pydantic-ai. What it does well is done here: intent before
submission, a key in the batch's metadata, a trigger that only looks.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
from airflow.sdk import BaseOperator, Context
from airflow.triggers.base import BaseTrigger, TriggerEvent
from heal_airflow import run_step


class BatchTrigger(BaseTrigger):
    """Looks at batches from the triggerer until all have ended, or the worker should have a look.

    Its arguments are stored in Airflow's database, so the key is not among them: endpoint and key are read from the
    triggerer's own settings. Where those do not let it look, the worker is woken at every poll instead.

    Args:
        batch_ids: as the endpoint names them.
        poll_s: time between two looks, in seconds.
        until: when to stop looking, in seconds since 1970.
    """

    def __init__(self, batch_ids: Sequence[str], poll_s: float, until: float) -> None:
        super().__init__()
        self.batch_ids, self.poll_s, self.until = list(batch_ids), poll_s, until
        self._seen: dict[str, str] = {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class and arguments, as Airflow stores them."""
        return (
            "heal_batches.BatchTrigger",
            {"batch_ids": self.batch_ids, "poll_s": self.poll_s, "until": self.until},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait.

        Yields:
            One event, whose content does not matter: the step looks for itself.
        """
        from heal_tasks.core.settings import load_settings

        settings = await asyncio.to_thread(load_settings)
        key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else "none"
        async with httpx.AsyncClient(
            base_url=settings.llm_url, headers={"Authorization": f"Bearer {key}"}, timeout=settings.llm_timeout_s
        ) as client:
            while await self._working(client):
                pass
        yield TriggerEvent({"batch_ids": self.batch_ids})

    async def _working(self, client: httpx.AsyncClient) -> bool:
        """Sleep, then look; whether to go on with that."""
        from heal_tasks.questions.llm.batch_lines import ENDED

        await asyncio.sleep(max(0.0, min(self.poll_s, self.until - time.time())))
        if time.time() >= self.until or not self.batch_ids:
            return False
        ended = 0
        for batch_id in self.batch_ids:
            try:
                reply = await client.get(f"batches/{batch_id}")
            except httpx.HTTPError as error:
                self.log.warning("the endpoint cannot be reached (%s); looking again later", type(error).__name__)
                return True
            if reply.status_code == 429 or reply.status_code >= 500:
                self.log.warning("the endpoint answers HTTP %d; looking again later", reply.status_code)
                return True
            if reply.status_code != 200:
                self.log.warning("the endpoint answers HTTP %d; a worker will look", reply.status_code)
                return False
            batch = reply.json()
            ended += batch["status"] in ENDED
            seen = f"{batch['status']}, {batch.get('request_counts')}"
            if self._seen.get(batch_id) != seen:
                self._seen[batch_id] = seen
                self.log.info("batch %s: %s", batch_id, seen)
        return ended < len(self.batch_ids)


class AskOperator(BaseOperator):
    """Step ``ask``: sends, waits deferred, and runs again, until nothing is under way.

    Args:
        manifest: of the step before.
        shard: this task's number, of ``shards``.
        shards: how many mapped tasks share the work.
        kwargs: as for every operator.
    """

    template_fields: Sequence[str] = ("manifest",)

    def __init__(self, *, manifest: Any, shard: int = 0, shards: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.manifest, self.shard, self.shards = manifest, shard, shards

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the step; defer where it has to wait."""
        del context
        return self._run()

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Run the step again."""
        del context, event
        return self._run()

    def _run(self) -> dict[str, Any]:
        from heal_tasks.steps.engine.runner import Waiting

        try:
            return run_step("ask", self.manifest, shard=self.shard, shards=self.shards)
        except Waiting as waiting:
            until = time.time() + waiting.wait_s
            self.defer(trigger=BatchTrigger(waiting.batch_ids, waiting.poll_s, until), method_name="resume")
