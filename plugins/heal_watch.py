"""The watcher that starts a run when files in the folders and buckets of ``HEAL_SOURCES`` have changed.

Airflow queues one run of a DAG for all events that come while ``max_active_runs`` are under way, so files that arrive
during a run start one more, however many they are.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from heal_connections import connected_settings

MAX_CHANGING = 10
"""Looks with a change each after which an event comes all the same: somebody may add files all day."""


class SourceTrigger(BaseEventTrigger):
    """Lists names and versions of files every few minutes; an event comes when a change has stayed for one interval.

    What the last event was about is kept with the asset, so neither a restart nor a deployment repeats it.
    """

    def __init__(self, minutes: float, corpus: str = "") -> None:
        super().__init__()
        self.minutes, self.corpus = minutes, corpus
        self._announced: dict[str, str] | None = None  # digest of each source's listing at the last event
        self._listed: dict[str, str] = {}
        self._changing = 0  # looks since the last event that differed from it

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class and arguments, as Airflow stores them."""
        return "heal_watch.SourceTrigger", {"minutes": self.minutes, "corpus": self.corpus}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look for ever; an error is logged, and the next look tries again."""
        while True:
            try:
                changed = await self._look()
            except Exception as error:
                changed = []
                self.log.warning("the sources cannot be watched (%s: %s); trying again", type(error).__name__, error)
            if changed:
                self.log.info("changed and settled: %s", " ".join(changed))
                yield TriggerEvent({"changed": changed})
                await self._remember()
            await asyncio.sleep(60 * self.minutes)

    async def _look(self) -> list[str]:
        """The sources whose change is to be announced now."""
        if self._announced is None:
            stored = await self.asset_state_store.aget("announced", {}) if self.asset_state_store else {}
            self._announced = {str(name): str(digest) for name, digest in dict(stored).items()}
            self._listed = self._announced
        before = self._listed
        self._listed = await asyncio.to_thread(self._list, before)
        changed = [name for name, digest in self._listed.items() if digest != self._announced.get(name, "")]
        self._changing = self._changing + 1 if changed else 0
        return changed if self._listed == before or self._changing >= MAX_CHANGING else []

    async def _remember(self) -> None:
        # After the event: a triggerer that is killed between the two announces twice rather than never.
        self._announced, self._changing = self._listed, 0
        if self.asset_state_store:
            try:
                await self.asset_state_store.aset("announced", dict(self._listed))
            except Exception as error:
                self.log.warning("the last event is not noted (%s); a restart repeats it", error)

    def _list(self, before: dict[str, str]) -> dict[str, str]:
        """A digest of each source's listing, empty for an empty one; of one that cannot be listed, the last."""
        from heal_tasks.core.errors import HealError
        from heal_tasks.core.specs import PYDOCS, SOURCE, TABLE
        from heal_tasks.sources.registry import NOT_WATCHED
        from heal_tasks.steps.reading.opening import opening_sources

        settings, found = connected_settings(parts=["s3"], corpus=self.corpus), dict[str, str]()
        if any(spec.startswith(TABLE) for spec in settings.sources):
            settings = connected_settings(parts=["s3", "database"], corpus=self.corpus)
        for spec in settings.sources:
            table = settings.source_tables.get(spec.removeprefix(SOURCE))
            if spec.startswith(PYDOCS) or (table and table.kind in NOT_WATCHED):
                continue
            try:
                with opening_sources(settings) as open_source:
                    found[spec] = _digest(open_source(spec))
            except HealError as error:
                found[spec] = before.get(spec, "")
                self.log.warning("%s; looking again later", error)
        return found


def _digest(source: Any) -> str:
    """The hash of paths and versions of the files that a run would read; empty without any."""
    from heal_tasks.sources.parse import PARSERS, kind_of

    digest, files = hashlib.blake2b(digest_size=16), 0
    for file in source.list_files():
        if not file.left_out and kind_of(file) in PARSERS:
            files += 1
            digest.update(f"{file.path}\0{file.fingerprint}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest() if files else ""
