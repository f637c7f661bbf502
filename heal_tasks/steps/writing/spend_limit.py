"""Hands out chunks to ask about while the spend limit has room: money is reserved before a chunk's first call."""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Progress
from heal_tasks.questions.llm.dialect import most_probe_tokens
from heal_tasks.questions.llm.prompt_spec import PromptSpec
from heal_tasks.questions.writer import Answered, ChunkToAsk
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.llm_calls import cost_usd
from heal_tasks.steps.writing.recorder import Recorder
from heal_tasks.store.db import Connection
from heal_tasks.store.llm.spend_limit import SpendLimit

_RESERVE = 50
_POLL_S = 1.0


def spend_limit_of(conn: Connection, settings: Settings, run_id: str) -> SpendLimit:
    """The spend limits that the settings set for a run; none where no language model is configured."""
    paid = settings.llm_configured
    return SpendLimit(
        conn, run_id,
        run_usd=settings.llm_run_spend_limit_usd if paid else 0.0,
        day_usd=settings.llm_day_spend_limit_usd if paid else 0.0,
    )  # fmt: skip


def affordable(limit: SpendLimit, costs: Sequence[float]) -> int:
    """Number of chunks, from the first, that the limit has room for, by their expected costs in USD."""
    return bisect_right(list(accumulate(costs)), limit.left_usd(limit.spending()))


class AffordableChunks(Sequence[ChunkToAsk]):
    """Chunks that are handed out one by one while the spend limit has room for the most that each can cost.

    A writer takes a chunk when a worker is free, so money that earlier chunks did not need is there for later ones.
    Iteration ends where no money is left at that moment; the next iteration continues there.

    Args:
        context: of the step.
        limit: of the run.
        spec: the prompt.
        chunks: all that are to be asked about.
        recorder: stores the answers, which frees what was reserved for them and not spent.

    Attributes:
        handed_out: number of chunks asked about.
    """

    def __init__(
        self,
        context: Context,
        limit: SpendLimit,
        spec: PromptSpec[Any],
        chunks: Sequence[ChunkToAsk],
        recorder: Recorder[Any, Any],
    ) -> None:
        self._context, self._settings, self._limit, self._spec = context, context.settings, limit, spec
        self._chunks, self._recorder = chunks, recorder
        self._reserved, self._wait = 0, False
        self.handed_out = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: Any) -> Any:
        return self._chunks[index]

    def __iter__(self) -> Iterator[ChunkToAsk]:
        return self

    def __next__(self) -> ChunkToAsk:
        if self.handed_out == len(self._chunks):
            raise StopIteration
        if self.handed_out == self._reserved and not self._reserve():
            # A worker is free because its chunk is finished; what that did not cost is free once it is stored.
            self._recorder.store()
            if not self._reserve():
                raise StopIteration
        self.handed_out += 1
        return self._chunks[self.handed_out - 1]

    def ask(self, write: Callable[[Sequence[ChunkToAsk], Progress], Iterator[Answered[Any]]]) -> None:
        """Ask about the chunks while there is money, record the answers, and give back the rest of the money.

        Args:
            write: yields the answer about each chunk.
        """
        try:
            while self._can_start():
                before = self.handed_out

                def report(done: int, total: int, message: str = "", before: int = before) -> None:
                    self._context.progress(before + done, total, message)

                for answer in write(self, report):
                    self._recorder.add(answer)
                self._recorder.store()
        finally:
            # An endpoint that goes away raises; what was answered until then has been paid for.
            self._recorder.store()
            if self._limit.limited:
                self._limit.release([chunk.chunk_id for chunk in self._chunks[: self._reserved]])

    def _can_start(self) -> bool:
        """Reserve money for a chunk and for the probe; wait where other tasks have reserved the rest."""
        # No longer than a call can take: a killed task does not release its reservations.
        deadline = time.monotonic() + self._settings.llm_timeout_s
        while self.handed_out == self._reserved < len(self._chunks):
            if self._reserve(cost_usd(self._settings, *most_probe_tokens())):
                return True
            if not self._wait or time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return self.handed_out < len(self._chunks)

    def _reserve(self, extra_usd: float = 0.0) -> bool:
        if not self._limit.limited:
            self._reserved = len(self._chunks)
            return self.handed_out < self._reserved
        wanted = self._chunks[self._reserved : self._reserved + _RESERVE]
        costs = [(chunk.chunk_id, cost_usd(self._settings, *self._spec.most_tokens(chunk))) for chunk in wanted]
        costs[0] = (costs[0][0], costs[0][1] + extra_usd)
        grant = self._limit.reserve(costs)
        self._reserved += grant.count
        self._wait = grant.wait
        return grant.count > 0
