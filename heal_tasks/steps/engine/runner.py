"""Runs one step: returns its finished result or does the work, and records progress, result and time.

A step's key is (name, fingerprint of its inputs, shard). Run again with the same inputs, after a kill or on a later
night, it returns the stored result, which the later run then has, too. Steps write so that a second run completes a
half-finished one: upserts by deterministic ids, artifacts published by rename.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import psycopg

from heal_tasks.core.artifacts import ArtifactStore, artifact_store
from heal_tasks.core.errors import HealError, StepError, StoreError
from heal_tasks.core.ids import fingerprint
from heal_tasks.core.log import LoggedProgress
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.redaction import redacted_errors
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import JsonObject, Progress
from heal_tasks.steps.engine.faults import named_fault, named_faults
from heal_tasks.steps.engine.only_process import only_process
from heal_tasks.store.db import connect
from heal_tasks.store.migrate import refuse_gap, schema_gap
from heal_tasks.store.runs.run_lock import one_step
from heal_tasks.store.runs.runs import FAILED, RunRepository, StepRow

T = TypeVar("T")

_OTHER_SCHEMA = (
    psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName, psycopg.errors.FeatureNotSupported,
)  # fmt: skip
"""Errors of statements whose tables or functions were changed; the last one is of a prepared statement."""


@dataclass(frozen=True)
class Context:
    """The arguments of a step's body."""

    settings: Settings
    manifest: Manifest  # refs of the steps before
    conn: psycopg.Connection[Any]  # in autocommit mode
    artifacts: ArtifactStore
    progress: Progress
    shard: int  # this task's number, from 0
    shards: int  # number of tasks that share the work
    log: logging.Logger
    place: tuple[str, str, int, str] = ("", "", 0, "")  # key of the step's row in heal.step_result

    def keep(self, value: JsonObject) -> None:
        """Store what the next attempt has to know if this one is killed; in a transaction open on ``conn``."""
        RunRepository(self.conn).keep(*self.place, value)

    def kept(self) -> JsonObject | None:
        """The value that an attempt which was killed has kept; None if there is none."""
        return RunRepository(self.conn).kept(*self.place)

    @property
    def run_id(self) -> str:
        """The pipeline run."""
        return self.manifest.run_id

    def track(self, items: Sequence[T]) -> Iterator[T]:
        """Iterate, reporting progress."""
        for done, item in enumerate(items):
            self.progress(done, len(items))
            yield item
        self.progress(len(items), len(items))


class Waiting(Exception):  # noqa: N818
    """A step waits for work elsewhere and has to be run again later; it then continues where it stopped. Not an error.

    ``batch_ids`` are empty while unknown. The batches are polled every ``poll_s``, for ``wait_s`` at most, at the
    endpoint of language models ("llm") or of embeddings ("embed").
    """

    def __init__(
        self, message: str, batch_ids: Sequence[str], *, poll_s: float, wait_s: float, endpoint: str = "llm"
    ) -> None:
        super().__init__(message)
        self.batch_ids, self.poll_s, self.wait_s, self.endpoint = list(batch_ids), poll_s, wait_s, endpoint


@dataclass(frozen=True)
class Outcome:
    """The result of a step's body, from which the runner makes the manifest."""

    refs: dict[str, int | str] = field(default_factory=dict)
    counts: dict[str, int | float] = field(default_factory=dict)
    note: str = ""
    undone: str = ""  # what the step was to do and had nothing for, and why; empty if it did all


@dataclass(frozen=True)
class Step:
    """One step of the pipeline."""

    name: str  # on the command line, in the report and in heal.step_result
    body: Callable[[Context], Outcome]
    inputs: Callable[[Context], object] | None  # JSON values that decide the result; None: the run alone does
    of_run: bool = False  # the result belongs to this run only, although it has ``inputs``
    beside_runs: bool = False  # does not wait for the end of a run that is under way on the command line
    repeats: bool = False  # is done again whenever it is run

    def run(
        self, settings: Settings, manifest: Manifest, shard: int = 0, shards: int = 1, *, in_run: bool = False
    ) -> Manifest:
        """Run the step after the one that returned ``manifest``, or reuse its result; return the next manifest.

        ``in_run`` says that the caller keeps other runs and steps out.
        """
        log = logging.getLogger(f"heal_tasks.{self.name}")
        url = settings.require_database_url()
        with redacted_errors(), named_faults(f"step {self.name}", settings), ExitStack() as held:
            if not in_run and not self.beside_runs:
                held.enter_context(one_step(url, manifest.run_id, log.info))
            if self.inputs and not self.of_run:  # of equal inputs the second process then finds the first one's result
                held.enter_context(only_process(settings.var_dir / "locks", self.name, log.info))
            return self._run(settings, manifest, shard, shards, log)

    def _run(self, settings: Settings, manifest: Manifest, shard: int, shards: int, log: logging.Logger) -> Manifest:
        url = settings.require_database_url()
        with connect(url, autocommit=True) as conn, connect(url, autocommit=True) as side:
            refuse_gap(side)  # workers of two versions at once, or a database that was not migrated
            runs = RunRepository(side)
            key = ""

            def report(done: int, total: int, message: str = "") -> None:
                runs.progress(self.name, key, shard, manifest.run_id, done, total, message)

            context = Context(
                settings, manifest, conn, artifact_store(settings),
                LoggedProgress(log, self.name, also=report), shard, shards, log,
            )  # fmt: skip
            try:
                if not self.repeats and (by := runs.overtaken_by(manifest.run_id)):
                    raise _overtaken(self.name, manifest.run_id, by)
                inputs = [manifest.run_id] if self.of_run or not self.inputs else []
                key = step_key(self.name, shards, *inputs, *([self.inputs(context)] if self.inputs else []))
                stored = None if self.repeats else runs.finished(self.name, key, shard, manifest.run_id)
                if stored and stored.result and _is_whole(context.artifacts, stored.result):
                    return self._reuse(runs, stored, stored.result, manifest, log)
                place = self.name, key, shard, manifest.run_id
                runs.begin(*place)
                outcome = self._done(replace(context, place=place), side)
                own = Manifest(run_id=manifest.run_id, step=self.name, **vars(outcome))
                result = manifest.next(self.name, **vars(outcome))
                runs.finish(*place, own.to_json())
            except Waiting as waiting:
                report(0, 0, str(waiting))
                log.info("%s: %s", self.name, waiting)
                raise
            except Exception as error:
                if key:
                    named = error if isinstance(error, HealError) else named_fault(error, self.name, settings)
                    with suppress(psycopg.Error):
                        report(0, 0, f"{FAILED}{named or type(error).__name__ + ', see the log'}")
                raise
        log.info("%s: %s", self.name, outcome.note or outcome.counts)
        if outcome.undone:
            log.warning("%s: %s", self.name, outcome.undone)
        return result

    def _done(self, context: Context, side: psycopg.Connection[Any]) -> Outcome:
        """Do the work; a schema that was migrated meanwhile is named."""
        try:
            return self.body(context)
        except _OTHER_SCHEMA as error:
            if gap := schema_gap(side):
                raise StoreError(f"step {self.name} met another schema than it began with: {gap}") from error
            raise

    def _reuse(
        self, runs: RunRepository, stored: StepRow, result: JsonObject, manifest: Manifest, log: logging.Logger
    ) -> Manifest:
        """The manifest of a step that has finished before, in this run or, with the same inputs, in another."""
        if stored.run_id == manifest.run_id:
            log.info("%s: finished before in this run; nothing to do, a new run would do it again", self.name)
        else:
            log.info("%s: finished in run %s with the same inputs; nothing to do", self.name, stored.run_id)
            result = {**result, "note": f"{result['note']} (unchanged, reused from run {stored.run_id})"}
            key = self.name, stored.fingerprint, stored.shard, manifest.run_id
            runs.begin(*key)
            runs.finish(*key, result)
        made = Manifest(**result)
        return manifest.next(self.name, refs=made.refs, counts=made.counts, note=made.note, undone=made.undone)

    def run_to_end(
        self, settings: Settings, manifest: Manifest, shard: int = 0, shards: int = 1, *, in_run: bool = False
    ) -> Manifest:
        """As ``run``, but wait in this process if the step has to wait."""
        while True:
            try:
                return self.run(settings, manifest, shard, shards, in_run=in_run)
            except Waiting as waiting:
                time.sleep(min(waiting.poll_s, waiting.wait_s))


def step_key(name: str, shards: int, *inputs: object) -> str:
    """The fingerprint of a step and its inputs, under which its result is stored."""
    return fingerprint([name, shards, *inputs])


def _is_whole(artifacts: ArtifactStore, result: JsonObject) -> bool:
    """True if all files that a result names are there."""
    return all(artifacts.exists(uri) for ref, uri in result["refs"].items() if ref.endswith("_uri") and uri)


def _overtaken(step: str, run_id: str, by: StepRow) -> StepError:
    return StepError(
        f"step {step} of run {run_id!r} was not done: run {by.run_id!r} has changed what is served "
        f"({by.step}, {by.finished_at:%Y-%m-%d %H:%M %Z}) since this run made its topics, and older topics would "
        "replace newer ones. Start a new run instead, with the route realign if nothing else calls for one"
    )
