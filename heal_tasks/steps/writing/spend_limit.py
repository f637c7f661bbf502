"""Which chunks the budgets allow a writer to be handed: money is reserved for a chunk before its first call."""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Progress
from heal_tasks.questions.llm.prompt_spec import PromptSpec
from heal_tasks.questions.llm.tokens import most_probe_tokens, most_tokens
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.store.db import Connection
from heal_tasks.store.llm.spend import Budget

T = TypeVar("T")

_RESERVE = 50
_POLL_S = 1.0

BATCH_PRICE_FACTOR = 0.5
"""Price of a call in a batch as a share of a single call's, at OpenAI and at those that copy its Batch API."""


def cost_usd(settings: Settings, input_tokens: int, output_tokens: int) -> float:
    """The price of tokens, in USD."""
    return (
        input_tokens * settings.llm_input_usd_per_million + output_tokens * settings.llm_output_usd_per_million
    ) / 1e6


def budget_of(conn: Connection, settings: Settings, run_id: str) -> Budget:
    """The budgets that the settings give a run; none where no language model is paid."""
    paid = settings.llm_configured
    return Budget(
        conn, run_id,
        run_usd=settings.llm_run_spend_limit_usd if paid else 0.0,
        day_usd=settings.llm_day_spend_limit_usd if paid else 0.0,
    )  # fmt: skip


def affordable(budget: Budget, costs: Sequence[float]) -> int:
    """How many chunks the budgets leave room for.

    Args:
        budget: of a run.
        costs: what each chunk is expected to cost, in USD, in the order in which they would be asked about.

    Returns:
        Their number, from the first.
    """
    return bisect_right(list(accumulate(costs)), budget.left_usd(budget.spending()))


class SpendLimit(Sequence[ChunkToAsk]):
    """Chunks that are handed out one after the other, for as long as the budgets have room for the most they can cost.

    A writer takes a chunk when a worker is free, so money that earlier chunks did not need is there for later ones.
    Iterating ends where none is left at that moment, and goes on where it ended.

    Args:
        budget: of the run.
        settings: prices and the like.
        inquiry: what is asked about each.
        chunks: all that are to be asked about.
        settle: stores what has been answered, which frees what was reserved for it and not spent.
    """

    def __init__(
        self,
        budget: Budget,
        settings: Settings,
        inquiry: PromptSpec[Any],
        chunks: Sequence[ChunkToAsk],
        settle: Callable[[], None],
    ) -> None:
        self._budget, self._settings, self._inquiry = budget, settings, inquiry
        self._chunks, self._settle = chunks, settle
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
            self._settle()
            if not self._reserve():
                raise StopIteration
        self.handed_out += 1
        return self._chunks[self.handed_out - 1]

    def open(self) -> bool:
        """Whether a writer can be started: money for a chunk and for getting to know the endpoint is reserved.

        Called while no call is under way. Where other tasks hold what is left, their calls are waited for.
        """
        # A killed task's reservations would be waited for in vain; a call that is under way ends within its timeout.
        deadline = time.monotonic() + self._settings.llm_timeout_s
        while self.handed_out == self._reserved < len(self._chunks):
            if self._reserve(cost_usd(self._settings, *most_probe_tokens())):
                return True
            if not self._wait or time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return self.handed_out < len(self._chunks)

    def spend(
        self,
        write: Callable[[Sequence[ChunkToAsk], Progress], Iterator[T]],
        take: Callable[[T], None],
        progress: Progress,
    ) -> None:
        """Have the chunks written about for as long as there is money, and give back what is left of it.

        Args:
            write: hands out what came of each chunk.
            take: is given it.
            progress: receives the number of finished chunks.
        """
        try:
            while self.open():
                before = self.handed_out

                def report(done: int, total: int, message: str = "", before: int = before) -> None:
                    progress(before + done, total, message)

                for written in write(self, report):
                    take(written)
                self._settle()
        finally:
            # An endpoint that goes away raises; what was answered until then has been paid for.
            self._settle()
            self._close()

    def _close(self) -> None:
        """Give back what is reserved for chunks that were not asked about, or not answered."""
        if self._budget.limited:
            self._budget.release([chunk.chunk_id for chunk in self._chunks[: self._reserved]])

    def _reserve(self, extra_usd: float = 0.0) -> bool:
        if not self._budget.limited:
            self._reserved = len(self._chunks)
            return self.handed_out < self._reserved
        wanted = self._chunks[self._reserved : self._reserved + _RESERVE]
        costs = [(chunk.chunk_id, cost_usd(self._settings, *most_tokens(self._inquiry, chunk))) for chunk in wanted]
        costs[0] = (costs[0][0], costs[0][1] + extra_usd)
        grant = self._budget.reserve(costs)
        self._reserved += grant.count
        self._wait = grant.wait
        return grant.count > 0
