"""A language model behind any OpenAI-compatible endpoint, asked about many chunks at a time, none of them lost.

A reply cut off at the token limit is asked for once more with twice the limit; one cut off before, because the server's
context is full, is not, as it would end the same way. An invalid reply is asked for at most twice more, with the error
appended; a refusal is final. Where nothing usable comes any more, the run is given up. Before the first chunk the
endpoint is probed for its dialect; the probe's cost is booked with the first finished chunk.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from heal_tasks.core.errors import HealError, SettingsError
from heal_tasks.endpoint.attempts import Failure
from heal_tasks.endpoint.calls import Call, without_key
from heal_tasks.endpoint.endpoint import EndpointConfig, reason_of
from heal_tasks.questions.llm.chat import Chat
from heal_tasks.questions.llm.dialect import Dialect
from heal_tasks.questions.llm.prompt_spec import MAX_CORRECTIONS, PromptSpec
from heal_tasks.questions.writer import Answered, ChunkToAsk, T

_Outcome = tuple[Answered[T], Failure | None]

# Consecutive failures to reach the endpoint, per worker, after which the rest of the run is given up.
_OUTAGES_PER_WORKER = 3

USELESS_CHUNKS = 12
"""Chunks in a row without a usable reply after which the rest of the run is given up: about three dozen calls.

A model that fails every fifth chunk, the most that a step accepts, does that once in 250 million chunks.
"""

_SHOWN_CHARS = 500
_NEAR_LIMIT = 0.9  # servers differ in which tokens they count
_FULL = "cut off after {} tokens because the server's context was full; start it with a longer one: "


class UselessRepliesError(SettingsError):
    """An endpoint answers, but not with what is asked for; ``expected``: about chunks that failed before, too."""

    def __init__(self, message: str, *, expected: bool) -> None:
        super().__init__(message)
        self.expected = expected


class LLM:
    """A language model behind an endpoint; ``concurrency`` is the largest number of calls in flight."""

    def __init__(self, config: EndpointConfig, concurrency: int) -> None:
        self._config, self._concurrency = config, concurrency

    def ask(self, spec: PromptSpec[T], chunks: Iterable[ChunkToAsk]) -> Iterator[Answered[T]]:
        """Ask the same about many chunks, which are taken as workers become free.

        Yields:
            One Answered per chunk that a request was sent for, in the order in which they finish.

        Raises:
            SettingsError: the endpoint rejects the key, does not know the model or the path, has no API, or the account
                has no credit.
            UselessRepliesError: many chunks in a row got no usable reply.
            RetryableError: the endpoint cannot be reached, stopped answering for many chunks in a row, or throttles for
                too long. Whatever was paid for until then has been yielded before.
        """
        waiting = iter(chunks)
        if (chunk := next(waiting, None)) is None:
            return
        endpoint, health = Chat(self._config, spec.temperature), _Health(self._config, self._concurrency)
        pending = set[Future[_Outcome[T]]]()
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="ask")
        try:
            probed, failure = endpoint.probe()
            finished = list[_Outcome[T]]()
            if failure not in (None, "rejected"):
                # The endpoint has failed, not the probe: as if the first chunk had been asked about.
                finished, chunk, probed = [(Answered(chunk, None, probed), failure)], None, ()
            else:
                health.note(None, "")
            while True:
                for answered, failure in finished:
                    health.note_use(answered, failure)
                    health.note(failure, answered.calls[-1].raw_reply)
                    last = answered.calls[-1]
                    unsent = failure == "stopped" and not (last.input_tokens or last.output_tokens)
                    calls, probed = (*probed, *answered.calls[: -1 if unsent else None]), ()
                    if calls:  # a chunk whose first request was held back has not been asked about
                        yield replace(answered, calls=calls)
                # Twice as many as run at a time: workers do not idle while the caller stores, and memory stays bounded.
                while health.error is None and len(pending) < 2 * self._concurrency:
                    # An iterator that has ended may go on once results were stored.
                    if (chunk := chunk or next(waiting, None)) is None:
                        break
                    pending.add(executor.submit(_ask, endpoint, spec, chunk))
                    chunk = None
                if health.error is not None:
                    endpoint.stop()
                    pending = {future for future in pending if not future.cancel()}
                if not pending:
                    break
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                finished = [future.result() for future in ready]
        finally:
            # Workers that wait for a rate limit would keep the process from ending.
            endpoint.stop()
            executor.shutdown(wait=False, cancel_futures=True)
        if (error := health.final_error()) is not None:
            raise error

    def learn_dialect(self, spec: PromptSpec[T]) -> tuple[Dialect, tuple[Call, ...]]:
        """Find out the request fields that the endpoint understands, and the calls that it took; raises as ``ask``."""
        endpoint, health = Chat(self._config, spec.temperature), _Health(self._config, self._concurrency)
        calls, failure = endpoint.probe()
        health.note(failure, calls[-1].raw_reply)
        if (error := health.final_error()) is not None:
            raise error
        return endpoint.dialect, calls


class _Health:
    """Decides from the outcomes of calls when to give up the rest of a run."""

    def __init__(self, config: EndpointConfig, concurrency: int) -> None:
        self._config, self._most_outages = config, _OUTAGES_PER_WORKER * concurrency
        self._url = without_key(config.url, config.api_key)
        self._answered = self._usable = False
        self._outages, self._useless = 0, [0, 0]  # in a row; of new chunks, of those that failed before
        self._outage: HealError | None = None
        self.error: HealError | None = None

    def note(self, failure: Failure | None, message: str) -> None:
        if failure is None or failure == "rejected":
            self._answered, self._outages = True, 0
            return
        reason = reason_of(self._config, failure, self._shown(message))
        unreachable = failure in ("unreachable", "outage") or (failure == "no api" and self._answered)
        self._outages = self._outages + 1 if unreachable else 0
        self._outage = reason if unreachable else self._outage
        # A probe that is answered does not show that chunks are.
        most = self._most_outages if self._usable else min(self._most_outages, USELESS_CHUNKS)
        most = most if self._answered else _OUTAGES_PER_WORKER
        fatal = failure in ("no credit", "denied", "throttled") or self._outages >= most
        # 403 is also how some gateways moderate a single text; it is the key's fault only if nothing ever worked.
        if fatal or (failure in ("unreachable", "forbidden", "no api") and not self._answered):
            self.error = self.error or reason

    def note_use(self, answered: Answered[Any], failure: Failure | None) -> None:
        """Count the chunks in a row, new ones and those that failed before, that nothing usable was said about."""
        if answered.status == "ok":
            self._useless, self._usable = [0, 0], True
        elif answered.status == "invalid" or (answered.status == "failed" and failure in ("rejected", "forbidden")):
            before = answered.chunk.failed_before
            self._useless[before] += 1
            if self._useless[before] == USELESS_CHUNKS:
                self.error = self.error or UselessRepliesError(
                    f"the LLM endpoint {self._url} with model {self._config.model!r} gave no usable reply about "
                    f"{USELESS_CHUNKS} chunks in a row, the last time: {self._shown(answered.calls[-1].raw_reply)!r}; "
                    "check HEAL_LLM_BASE_URL and HEAL_LLM_MODEL, and run the step again: it asks about these chunks, "
                    "too (what was written is kept)",
                    expected=before,
                )

    def final_error(self) -> HealError | None:
        """The error of a run that was given up, or in which the endpoint never answered."""
        return self.error or (None if self._answered else self._outage)

    def _shown(self, reply: str) -> str:
        return without_key(reply, self._config.api_key)[:_SHOWN_CHARS]


def _ask(endpoint: Chat, spec: PromptSpec[T], chunk: ChunkToAsk) -> _Outcome[T]:
    calls, token_limit = list[Call](), spec.token_limit * (2 if chunk.cut_off else 1)
    problem, corrections = chunk.problem, int(bool(chunk.problem))
    while True:
        answer = endpoint.ask(spec.messages(chunk, problem), spec.schema, token_limit, spec.parse)
        calls += answer.calls
        if (reply := answer.reply) is None:
            return Answered(chunk, None, tuple(calls)), answer.failure
        full = reply.cut_off and 0 < reply.call.output_tokens < _NEAR_LIMIT * token_limit
        if full:
            calls[-1] = replace(reply.call, raw_reply=f"{_FULL.format(reply.call.output_tokens)}{reply.call.raw_reply}")
        if reply.cut_off and token_limit == spec.token_limit and not full:
            token_limit *= 2
        elif reply.call.status == "invalid" and not reply.cut_off and corrections < MAX_CORRECTIONS:
            corrections, problem = corrections + 1, reply.problem
        else:
            return Answered(chunk, reply.value, tuple(calls)), None
