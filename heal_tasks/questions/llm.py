"""Questions by a language model behind any OpenAI-compatible endpoint, many calls at a time, none of them lost.

Policy for one chunk: a reply cut off at the token limit is asked for once more with twice the limit; a reply that
does not validate at most twice more, with the error appended; a refusal is final. ``endpoint.py`` repeats what was
throttled or got lost. Before the first chunk the endpoint is probed once for how strictly it keeps to a schema; what
the probe costs is handed over with the first chunk that is finished.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import openai

from heal_tasks.core.errors import HealError, RetryableError, SettingsError
from heal_tasks.core.types import Progress, silent
from heal_tasks.questions.dialect import Dialect
from heal_tasks.questions.endpoint import Endpoint, Trouble
from heal_tasks.questions.prompts import messages, prompt_hash, reply_schema
from heal_tasks.questions.replies import read_completion
from heal_tasks.questions.throttle import Throttle
from heal_tasks.questions.tokens import MAX_CORRECTIONS, TOKENS_PER_QUESTION
from heal_tasks.questions.writer import Call, ChunkToAsk, Written

_OPENAI_URL = "https://api.openai.com/v1"
_MAX_RETRIES = 5
_BACKOFF_S = 0.5

# Consecutive chunks, per worker, that may end in an outage before the rest of the run is not worth trying.
_OUTAGES_PER_WORKER = 3


@dataclass(frozen=True, slots=True)
class _Outcome:
    written: Written
    trouble: Trouble = "none"


class LLMWriter:
    """Writes questions with a language model.

    Args:
        base_url: OpenAI-compatible endpoint; None means OpenAI.
        api_key: its key; None where the endpoint asks for none.
        model: the model's name as the endpoint knows it.
        questions_per_chunk: how many questions to ask for.
        concurrency: most calls in flight at a time; fewer while the endpoint throttles.
        timeout_s: longest wait for one reply, in seconds.
        temperature: sampling temperature.
        max_retries: how often a call is repeated after a lost connection or a server error; after a timeout once at
            most. Throttled calls are repeated without counting.
        backoff_s: wait before the first repetition where the server names none, in seconds; doubles.
    """

    name = "llm"

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        model: str,
        *,
        questions_per_chunk: int,
        concurrency: int,
        timeout_s: float,
        temperature: float,
        max_retries: int = _MAX_RETRIES,
        backoff_s: float = _BACKOFF_S,
    ) -> None:
        self.model = model
        self.prompt_hash = prompt_hash(questions_per_chunk)
        self._questions_per_chunk, self._concurrency, self._temperature = questions_per_chunk, concurrency, temperature
        self._timeout_s, self._max_retries, self._backoff_s = timeout_s, max_retries, backoff_s
        self._base_url, self._secret = base_url or _OPENAI_URL, api_key or ""
        self._client = openai.OpenAI(
            base_url=self._base_url, api_key=api_key or "none", timeout=timeout_s, max_retries=0
        )
        # Older local servers know max_tokens only; OpenAI's reasoning models know max_completion_tokens only.
        self._dialect = Dialect("json_schema", "max_tokens" if base_url else "max_completion_tokens")

    def write(self, chunks: Sequence[ChunkToAsk], progress: Progress = silent) -> Iterator[Written]:
        """Write questions; see :class:`~heal_tasks.questions.writer.Writer`.

        Args:
            chunks: the chunks to ask about.
            progress: receives the number of finished chunks.

        Yields:
            One Written per chunk in the order in which they finish. A chunk that could not be asked about has
            status invalid, refused or failed.

        Raises:
            SettingsError: the endpoint rejects the key, or does not know the model or the path.
            RetryableError: the endpoint cannot be reached, stopped answering for many chunks in a row, or throttles
                for longer than is worth waiting. Whatever was paid for until then has been yielded before.
        """
        if not chunks:
            return
        endpoint = Endpoint(
            self._client, self._secret, self.model, self._dialect,
            Throttle(self._concurrency, backoff_s=self._backoff_s),
            temperature=self._temperature, timeout_s=self._timeout_s,
            max_retries=self._max_retries, backoff_s=self._backoff_s,
        )  # fmt: skip
        waiting, done, outages, outage = iter(chunks), 0, 0, ""
        stop: HealError | None = None
        pending: set[Future[_Outcome]] = set()
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="ask")
        try:
            probed, trouble = endpoint.probe()
            answered = trouble in ("none", "rejected")
            if not answered:
                # The endpoint's trouble, not the probe's: it is the first chunk's, as if that had been asked.
                pending.add(_finished(_Outcome(Written(next(waiting), (), probed), trouble)))
                probed = ()
            while True:
                # Twice as many as run at a time: workers do not idle while the caller stores, and memory stays bounded.
                # None before a probe in vain has been judged.
                room = 2 * self._concurrency if answered or outages else 1
                while stop is None and len(pending) < room:
                    if (chunk := next(waiting, None)) is None:
                        break
                    pending.add(executor.submit(self._ask, endpoint, chunk))
                if not pending:
                    break
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    outcome = future.result()
                    message = outcome.written.calls[-1].raw_reply
                    unreachable = outcome.trouble in ("unreachable", "outage")
                    outage = message if unreachable else outage
                    outages = outages + 1 if unreachable else 0
                    stop = stop or self._reason_to_stop(outcome.trouble, message, answered, outages)
                    answered = answered or outcome.trouble in ("none", "rejected")
                    done += 1
                    progress(done, len(chunks))
                    written, probed = replace(outcome.written, calls=(*probed, *outcome.written.calls)), ()
                    yield written
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

    def _reason_to_stop(self, trouble: Trouble, message: str, answered: bool, outages: int) -> HealError | None:
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

    def _ask(self, endpoint: Endpoint, chunk: ChunkToAsk) -> _Outcome:
        calls: list[Call] = []
        token_limit = TOKENS_PER_QUESTION * (self._questions_per_chunk + 1)
        problem, corrections, lengthened = "", 0, False
        while True:
            conversation = messages(chunk, self._questions_per_chunk, problem)
            answer = endpoint.ask(conversation, reply_schema(), token_limit)
            calls += answer.calls
            if answer.body is None:
                return _Outcome(Written(chunk, (), tuple(calls)), answer.trouble)
            reply = read_completion(answer.body)
            calls.append(Call(reply.status, reply.input_tokens, reply.output_tokens, answer.latency_s, reply.raw))
            if reply.cut_off and not lengthened:
                lengthened, token_limit = True, 2 * token_limit
            elif reply.status == "invalid" and not reply.cut_off and corrections < MAX_CORRECTIONS:
                corrections, problem = corrections + 1, reply.problem
            else:
                return _Outcome(Written(chunk, reply.drafts, tuple(calls)))


def _finished(outcome: _Outcome) -> Future[_Outcome]:
    future: Future[_Outcome] = Future()
    future.set_result(outcome)
    return future
