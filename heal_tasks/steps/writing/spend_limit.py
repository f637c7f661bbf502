"""Hands out chunks to ask about while the spend limit has room: money is reserved before a chunk's first call."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from heal_tasks.questions.llm.dialect import MOST_PROBE_TOKENS
from heal_tasks.questions.llm.prompt_spec import PromptSpec
from heal_tasks.questions.writer import ChunkToAsk, Write
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.llm_calls import cost_usd
from heal_tasks.steps.writing.recorder import Recorder
from heal_tasks.store.llm.spend_limit import SpendLimit

_RESERVE = 50
_POLL_S = 1.0


def spend_limit_of(context: Context) -> SpendLimit:
    """The spend limits that the settings set for a run; none where no language model is configured."""
    settings, paid = context.settings, context.settings.llm_configured
    return SpendLimit(
        context.conn, context.run_id,
        run_usd=settings.llm_run_spend_limit_usd if paid else 0.0,
        day_usd=settings.llm_day_spend_limit_usd if paid else 0.0,
    )  # fmt: skip


def spend_limit_note(left_over: int) -> str:
    """The end of a step's note where chunks are left over."""
    return f"; the spend limit is reached: {left_over} chunks are left for the next run" if left_over else ""


class AffordableChunks(Iterator[ChunkToAsk]):
    """Chunks that are handed out one by one while the spend limit has room for the most that each can cost.

    A writer takes a chunk when a worker is free, so money that earlier chunks did not need is there for later ones.
    Iteration ends where no money is left at that moment; the next iteration continues there.
    """

    def __init__(self, recorder: Recorder[Any, Any], spec: PromptSpec[Any], chunks: Sequence[ChunkToAsk]) -> None:
        self._recorder, self._spec, self._chunks = recorder, spec, chunks
        self._settings, self._limit = recorder.context.settings, spend_limit_of(recorder.context)
        self._handed_out, self._reserved, self._wait = 0, 0, False

    def __next__(self) -> ChunkToAsk:
        if self._handed_out == len(self._chunks):
            raise StopIteration
        if self._handed_out == self._reserved and not self._reserve():
            # A worker is free because its chunk is finished; what that did not cost is free once it is stored.
            self._recorder.store()
            if not self._reserve():
                raise StopIteration
        self._handed_out += 1
        return self._chunks[self._handed_out - 1]

    def ask(self, write: Write[Any]) -> None:
        """Ask about the chunks while there is money, record the answers, and give back the rest of the money.

        Chunks that no money is left for are counted as ``over_spend_limit``.
        """
        done = 0
        try:
            while self._can_start():
                for answer in write(self):
                    self._recorder.add(answer)
                    done += 1
                    self._recorder.context.progress(done, len(self._chunks))
                self._recorder.store()
        finally:
            # An endpoint that goes away raises; what was answered until then has been paid for.
            self._recorder.store()
            self._recorder.counts["over_spend_limit"] += len(self._chunks) - self._handed_out
            if self._limit.limited:
                self._limit.release([chunk.chunk_id for chunk in self._chunks[: self._reserved]])

    def _can_start(self) -> bool:
        """Reserve money for a chunk and for the probe; wait where other tasks have reserved the rest."""
        # No longer than a call can take: a killed task does not release its reservations.
        deadline = time.monotonic() + self._settings.llm_timeout_s
        while self._handed_out == self._reserved < len(self._chunks):
            if self._reserve(cost_usd(self._settings, *MOST_PROBE_TOKENS)):
                return True
            if not self._wait or time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return self._handed_out < len(self._chunks)

    def _reserve(self, extra_usd: float = 0.0) -> bool:
        if not self._limit.limited:
            self._reserved = len(self._chunks)
            return self._handed_out < self._reserved
        wanted = self._chunks[self._reserved : self._reserved + _RESERVE]
        costs = [(chunk.chunk_id, cost_usd(self._settings, *self._spec.most_tokens(chunk))) for chunk in wanted]
        costs[0] = (costs[0][0], costs[0][1] + extra_usd)
        grant = self._limit.reserve(costs)
        self._reserved += grant.count
        self._wait = grant.wait
        return grant.count > 0
