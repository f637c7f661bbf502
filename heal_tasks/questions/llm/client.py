"""A language model behind any OpenAI-compatible endpoint, asked about many chunks at a time, none of them lost.

Policy for one chunk: a reply cut off at the token limit is asked for once more with twice the limit; a reply that
does not validate at most twice more, with the error appended; a refusal is final. ``endpoint.py`` repeats what was
throttled or got lost. Before the first chunk the endpoint is probed once for how strictly it keeps to a schema; what
the probe costs is handed over with the first chunk that is finished.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import openai

from heal_tasks.core.errors import HealError, RetryableError, SettingsError
from heal_tasks.core.settings import OPENAI_URL
from heal_tasks.core.types import Progress, silent
from heal_tasks.questions.llm.dialect import Dialect
from heal_tasks.questions.llm.endpoint import Endpoint, Trouble
from heal_tasks.questions.llm.prompt_spec import Answered, PromptSpec
from heal_tasks.questions.llm.prompts import messages, prompt_hash, reply_schema
from heal_tasks.questions.llm.replies import parse_drafts, read_completion
from heal_tasks.questions.llm.throttle import Throttle
from heal_tasks.questions.llm.tokens import MAX_CORRECTIONS, TOKENS_PER_QUESTION
from heal_tasks.questions.writer import Call, ChunkToAsk, Draft, Written

T = TypeVar("T")

_MAX_RETRIES = 5
_BACKOFF_S = 0.5

# Consecutive chunks, per worker, that may end in an outage before the rest of the run is not worth trying.
_OUTAGES_PER_WORKER = 3


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    answered: Answered[T]
    trouble: Trouble = "none"


class LLM:
    """A language model behind an endpoint.

    Args:
        base_url: OpenAI-compatible endpoint; None means OpenAI.
        api_key: its key; None where the endpoint asks for none.
        model: the model's name as the endpoint knows it.
        concurrency: most calls in flight at a time; fewer while the endpoint throttles.
        timeout_s: longest wait for one reply, in seconds.
        max_retries: how often a call is repeated after a lost connection or a server error; after a timeout once at
            most. Throttled calls are repeated without counting.
        backoff_s: wait before the first repetition where the server names none, in seconds; doubles.
    """

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        model: str,
        *,
        concurrency: int,
        timeout_s: float,
        max_retries: int = _MAX_RETRIES,
        backoff_s: float = _BACKOFF_S,
    ) -> None:
        self.model, self._concurrency = model, concurrency
        self._timeout_s, self._max_retries, self._backoff_s = timeout_s, max_retries, backoff_s
        self._base_url, self._secret = base_url or OPENAI_URL, api_key or ""
        self._client = openai.OpenAI(
            base_url=self._base_url, api_key=api_key or "none", timeout=timeout_s, max_retries=0
        )
        # Older local servers know max_tokens only; OpenAI's reasoning models know max_completion_tokens only.
        self._dialect = Dialect("json_schema", "max_tokens" if base_url else "max_completion_tokens")

    def ask(
        self, inquiry: PromptSpec[T], chunks: Sequence[ChunkToAsk], progress: Progress = silent
    ) -> Iterator[Answered[T]]:
        """Ask the same about many chunks.

        Args:
            inquiry: what to ask.
            chunks: the chunks to ask about.
            progress: receives the number of finished chunks.

        Yields:
            One Answered per chunk in the order in which they finish. A chunk that could not be asked about has
            status invalid, refused or failed.

        Raises:
            SettingsError: the endpoint rejects the key, or does not know the model or the path.
            RetryableError: the endpoint cannot be reached, stopped answering for many chunks in a row, or throttles
                for longer than is worth waiting. Whatever was paid for until then has been yielded before.
        """
        if not chunks:
            return
        endpoint = self._endpoint(inquiry)
        waiting, done, outages, outage = iter(chunks), 0, 0, ""
        stop: HealError | None = None
        pending: set[Future[_Outcome[T]]] = set()
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="ask")
        try:
            probed, trouble = endpoint.probe()
            answered = trouble in ("none", "rejected")
            if not answered:
                # The endpoint's trouble, not the probe's: it is the first chunk's, as if that had been asked.
                unasked: Answered[T] = Answered(next(waiting), None, probed)
                pending.add(_finished(_Outcome(unasked, trouble)))
                probed = ()
            while True:
                # Twice as many as run at a time: workers do not idle while the caller stores, and memory stays bounded.
                # None before a probe in vain has been judged.
                room = 2 * self._concurrency if answered or outages else 1
                while stop is None and len(pending) < room:
                    if (chunk := next(waiting, None)) is None:
                        break
                    pending.add(executor.submit(_ask, endpoint, inquiry, chunk))
                if not pending:
                    break
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    outcome = future.result()
                    message = outcome.answered.calls[-1].raw_reply
                    unreachable = outcome.trouble in ("unreachable", "outage")
                    outage = message if unreachable else outage
                    outages = outages + 1 if unreachable else 0
                    stop = stop or self._reason_to_stop(outcome.trouble, message, answered, outages)
                    answered = answered or outcome.trouble in ("none", "rejected")
                    done += 1
                    progress(done, len(chunks))
                    answer, probed = replace(outcome.answered, calls=(*probed, *outcome.answered.calls)), ()
                    yield answer
                if stop is not None:
                    endpoint.throttle.close()
                    pending = {future for future in pending if not future.cancel()}
        finally:
            # Workers in a long pause would keep the process from ending.
            endpoint.throttle.close()
            executor.shutdown(wait=False, cancel_futures=True)
        if stop is None and outage and not answered:
            stop = self._unavailable(outage)
        if stop is not None:
            raise stop

    def learn_dialect(self, inquiry: PromptSpec[T]) -> tuple[Dialect, tuple[Call, ...]]:
        """Probe the endpoint, for requests that are going to be sent some other way.

        Args:
            inquiry: what will be asked.

        Returns:
            What of a request it understands, and the calls that it took to find out.

        Raises:
            SettingsError: as ``ask``.
            RetryableError: as ``ask``.
        """
        endpoint = self._endpoint(inquiry)
        calls, trouble = endpoint.probe()
        if trouble not in ("none", "rejected"):
            message = calls[-1].raw_reply
            raise self._reason_to_stop(trouble, message, False, 0) or self._unavailable(message)
        return endpoint.dialect, calls

    def _endpoint(self, inquiry: PromptSpec[T]) -> Endpoint:
        return Endpoint(
            self._client, self._secret, self.model, self._dialect,
            Throttle(self._concurrency, backoff_s=self._backoff_s),
            temperature=inquiry.temperature, timeout_s=self._timeout_s,
            max_retries=self._max_retries, backoff_s=self._backoff_s,
        )  # fmt: skip

    def _reason_to_stop(self, trouble: Trouble, message: str, answered: bool, outages: int) -> HealError | None:
        if trouble == "unpaid":
            return SettingsError(
                f"the account behind {self._base_url} has no credit left: {message}; add credit there and "
                "run the step again (what was written is kept)"
            )
        # 403 is also how some gateways moderate a single text; it is the key's fault only if nothing ever worked.
        if trouble == "denied" or (trouble == "forbidden" and not answered):
            return SettingsError(
                f"the LLM endpoint {self._base_url} refused model {self.model!r}: {message}; check HEAL_LLM_BASE_URL "
                "(it usually ends in /v1), HEAL_LLM_API_KEY and HEAL_LLM_MODEL"
            )
        if trouble == "throttled":
            return RetryableError(
                f"the LLM endpoint {self._base_url} cannot be used now: {message}; run the step again later (what was "
                "written is kept)"
            )
        if (trouble == "unreachable" and not answered) or outages >= _OUTAGES_PER_WORKER * self._concurrency:
            return self._unavailable(message)
        return None

    def _unavailable(self, message: str) -> RetryableError:
        return RetryableError(
            f"the LLM endpoint {self._base_url} does not answer: {message}; check that it runs, and run the step again "
            "(what was written is kept)"
        )


class LLMWriter:
    """Writes questions with a language model.

    Args:
        llm: the model.
        inquiry: what to ask, from ``question_inquiry``.
    """

    name = "llm"

    def __init__(self, llm: LLM, inquiry: PromptSpec[tuple[Draft, ...]]) -> None:
        self.model, self.prompt_hash = llm.model, inquiry.prompt_hash
        self._llm, self._inquiry = llm, inquiry

    def write(self, chunks: Sequence[ChunkToAsk], progress: Progress = silent) -> Iterator[Written]:
        """Write questions; see :class:`~heal_tasks.questions.writer.Writer` and :meth:`LLM.ask`.

        Args:
            chunks: the chunks to ask about.
            progress: receives the number of finished chunks.

        Yields:
            One Written per chunk in the order in which they finish.
        """
        for answered in self._llm.ask(self._inquiry, chunks, progress):
            yield Written(answered.chunk, answered.value or (), answered.calls)


def question_inquiry(questions_per_chunk: int, temperature: float) -> PromptSpec[tuple[Draft, ...]]:
    """What a language model is asked for questions.

    Args:
        questions_per_chunk: how many to ask for.
        temperature: sampling temperature.

    Returns:
        The inquiry.
    """
    return PromptSpec(
        messages=lambda chunk, problem: messages(chunk, questions_per_chunk, problem),
        schema=reply_schema(),
        token_limit=TOKENS_PER_QUESTION * (questions_per_chunk + 1),
        parse=parse_drafts,
        prompt_hash=prompt_hash(questions_per_chunk),
        temperature=temperature,
    )


def _ask(endpoint: Endpoint, inquiry: PromptSpec[T], chunk: ChunkToAsk) -> _Outcome[T]:
    calls: list[Call] = []
    problem, corrections = chunk.problem, int(bool(chunk.problem))
    token_limit = inquiry.token_limit * (2 if chunk.cut_off else 1)
    while True:
        answer = endpoint.ask(inquiry.messages(chunk, problem), inquiry.schema, token_limit)
        calls += answer.calls
        if answer.body is None:
            return _Outcome(Answered(chunk, None, tuple(calls)), answer.trouble)
        reply = read_completion(answer.body, inquiry.parse)
        calls.append(Call(reply.status, reply.input_tokens, reply.output_tokens, answer.latency_s, reply.raw))
        if reply.cut_off and token_limit == inquiry.token_limit:
            token_limit *= 2
        elif reply.status == "invalid" and not reply.cut_off and corrections < MAX_CORRECTIONS:
            corrections, problem = corrections + 1, reply.problem
        else:
            return _Outcome(Answered(chunk, reply.value, tuple(calls)))


def _finished(outcome: _Outcome[T]) -> Future[_Outcome[T]]:
    future: Future[_Outcome[T]] = Future()
    future.set_result(outcome)
    return future
