"""The operator of steps that ask or embed; it waits for a batch in the triggerer, without occupying a worker.

``LLMBatchOperator`` of the provider common.ai (read in 1.0.0) defers and re-attaches, too, but is not used: it
identifies a batch by DAG run and task, so a later run cannot find what an earlier one has paid; its rows have neither
the hash of a text nor the tokens of a failed call, so they cannot feed cache and ledger; it needs the key in Airflow's
connections, and pydantic-ai. Taken over from it: intent recorded before submission, a key in the batch's metadata, a
trigger that only looks.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
from airflow.sdk import BaseOperator, Context
from airflow.triggers.base import BaseTrigger, TriggerEvent
from heal_airflow import announce, join, run_step
from heal_connections import connected_settings

from heal_tasks.core.corpora import entered_corpus

_MAX_BYTES = 1 << 20  # of a reply about one batch, which has some thousand


class BatchTrigger(BaseTrigger):
    """Polls batches until all have ended or a worker has to look.

    Its arguments are stored in Airflow's database, so they do not contain the key: endpoint and key are read from the
    triggerer's own settings and connections. Where these are refused, the worker is woken instead. ``until`` is the
    time to stop polling, in seconds since 1970; ``endpoint`` is that of ``Waiting``.
    """

    def __init__(
        self, batch_ids: Sequence[str], poll_s: float, until: float, endpoint: str = "llm", corpus: str = ""
    ) -> None:
        super().__init__()
        self.batch_ids, self.poll_s, self.until = list(batch_ids), poll_s, until
        self.endpoint, self.corpus = endpoint, corpus
        self._seen: dict[str, str] = {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class and arguments, as Airflow stores them."""
        return (
            "heal_batches.BatchTrigger",
            {
                "batch_ids": self.batch_ids,
                "poll_s": self.poll_s,
                "until": self.until,
                "endpoint": self.endpoint,
                "corpus": self.corpus,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then yield one event; its content does not matter, because the step looks for itself."""
        settings = await asyncio.to_thread(connected_settings, parts=[self.endpoint], corpus=self.corpus)
        url, key = (
            (settings.embed_url, settings.embed_key)
            if self.endpoint == "embed"
            else (settings.llm_url, settings.llm_key)
        )
        async with httpx.AsyncClient(
            base_url=url, timeout=settings.llm_timeout_s,
            headers={"Authorization": f"Bearer {key or 'none'}", "Accept-Encoding": "identity"},
        ) as client:  # fmt: skip
            while await self._working(client):
                pass
        yield TriggerEvent({"batch_ids": self.batch_ids})

    async def _working(self, client: httpx.AsyncClient) -> bool:
        """Sleep, then poll; True while it has to go on."""
        from heal_tasks.core.types import BATCH_ENDED

        await asyncio.sleep(max(0.0, min(self.poll_s, self.until - time.time())))
        if time.time() >= self.until or not self.batch_ids:
            return False
        ended = 0
        for batch_id in self.batch_ids:
            try:
                status_code, body = await _get(client, f"batches/{batch_id}")
            except httpx.HTTPError as error:
                self.log.warning("the endpoint cannot be reached (%s); looking again later", type(error).__name__)
                return True
            if status_code == 429 or status_code >= 500:
                self.log.warning("the endpoint answers HTTP %d; looking again later", status_code)
                return True
            try:
                batch = json.loads(body) if status_code == 200 else {}
            except ValueError:
                batch = {}
            if not isinstance(batch, dict) or "status" not in batch:
                self.log.warning("the endpoint answers HTTP %d and no batch; a worker will look", status_code)
                return False
            ended += batch["status"] in BATCH_ENDED
            seen = f"{batch['status']}, {batch.get('request_counts')}"
            if self._seen.get(batch_id) != seen:
                self._seen[batch_id] = seen
                self.log.info("batch %s: %s", batch_id, seen)
        return ended < len(self.batch_ids)


async def _get(client: httpx.AsyncClient, path: str) -> tuple[int, bytes]:
    """Status and body of a reply; of a body that is too long for a batch only the beginning."""
    body = b""
    async with client.stream("GET", path) as reply:
        async for piece in reply.aiter_raw():
            body += piece
            if len(body) > _MAX_BYTES:
                break
    return reply.status_code, body


class StepOperator(BaseOperator):
    """A step of one of ``shards`` mapped tasks, deferred and run again until no batch is under way.

    ``manifest`` is that of the task before, or those of its mapped tasks.
    """

    template_fields: Sequence[str] = ("manifest",)

    def __init__(self, *, step: str, manifest: Any, shard: int = 0, shards: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step, self.manifest, self.shard, self.shards = step, manifest, shard, shards

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

        before = self.manifest if self.manifest is None or isinstance(self.manifest, dict) else join(self.manifest)
        try:
            made = run_step(self.step, before, shard=self.shard, shards=self.shards)
        except Waiting as waiting:
            until = time.time() + waiting.wait_s
            trigger = BatchTrigger(waiting.batch_ids, waiting.poll_s, until, waiting.endpoint, entered_corpus())
            self.defer(trigger=trigger, method_name="resume")
        return announce(made) if self.outlets else made
