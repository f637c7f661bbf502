"""Questions by a language model behind any OpenAI-compatible endpoint, many calls at a time, none of them lost.

Policy for one chunk: a reply cut off at the token limit is asked for once more with twice the limit; a reply that
does not validate at most twice more, with the error appended; a refusal is final. Throttling, lost connections and
server errors are retried by the SDK. A server that answers 400 to a field of the request is asked in a simpler
dialect, and the first dialect that it takes is kept for the rest of the run.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Literal

import openai

from heal_tasks.core.errors import HealError, RetryableError, SettingsError
from heal_tasks.core.types import JsonObject, Progress, silent
from heal_tasks.questions.prompts import messages, prompt_hash, reply_schema
from heal_tasks.questions.replies import ReplyRead, read_completion
from heal_tasks.questions.writer import Call, CallStatus, ChunkToAsk, Written, storable

_OPENAI_URL = "https://api.openai.com/v1"
_MAX_RETRIES = 5
_MAX_CORRECTIONS = 2
_TOKENS_PER_QUESTION = 512
_ERROR_CHARS = 2000
_REFUSAL_CODES = {"content_filter", "content_policy_violation"}
_HOPELESS_CODES = {"context_length_exceeded", "string_above_max_length"}

# Consecutive chunks, per worker, that may end in an outage before the rest of the run is not worth trying.
_OUTAGES_PER_WORKER = 3

_Trouble = Literal["none", "denied", "forbidden", "unreachable", "outage", "rejected"]


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What of the request a server understands."""

    reply: Literal["json_schema", "json_object", "text"]
    limit: Literal["max_completion_tokens", "max_tokens"]
    temperature: bool = True

    def fields(self, token_limit: int, temperature: float) -> JsonObject:
        fields: JsonObject = {self.limit: token_limit}
        if self.temperature:
            fields["temperature"] = temperature
        if self.reply == "json_schema":
            schema = {"name": "Reply", "strict": True, "schema": reply_schema()}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.reply == "json_object":
            fields["response_format"] = {"type": "json_object"}
        return fields

    def simpler(self, complaint: str) -> Iterator["_Dialect"]:
        """Dialects to try instead, the one that the server's complaint speaks of first."""
        if "temperature" in complaint:
            yield replace(self, temperature=False)
        if self.limit in complaint:
            yield replace(
                self, limit="max_tokens" if self.limit == "max_completion_tokens" else "max_completion_tokens"
            )
        if self.reply != "text":
            yield replace(self, reply="json_object" if self.reply == "json_schema" else "text")


@dataclass(frozen=True, slots=True)
class _Outcome:
    written: Written
    trouble: _Trouble = "none"


class LLMWriter:
    """Writes questions with a language model.

    Args:
        base_url: OpenAI-compatible endpoint; None means OpenAI.
        api_key: its key; None where the endpoint asks for none.
        model: the model's name as the endpoint knows it.
        questions_per_chunk: how many questions to ask for.
        concurrency: calls in flight at a time.
        timeout_s: longest wait for one reply, in seconds.
        temperature: sampling temperature.
        max_retries: how often the SDK repeats a call after throttling, a lost connection or a server error.
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
    ) -> None:
        self.model = model
        self.prompt_hash = prompt_hash(questions_per_chunk)
        self._questions_per_chunk, self._concurrency, self._temperature = questions_per_chunk, concurrency, temperature
        self._base_url, self._secret = base_url or _OPENAI_URL, api_key or ""
        self._client = openai.OpenAI(
            base_url=self._base_url, api_key=api_key or "none", timeout=timeout_s, max_retries=max_retries
        )
        # Older local servers know max_tokens only; OpenAI's reasoning models know max_completion_tokens only.
        self._dialect = _Dialect("json_schema", "max_tokens" if base_url else "max_completion_tokens")

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
            RetryableError: the endpoint cannot be reached, or stopped answering for many chunks in a row. Whatever
                was paid for until then has been yielded before.
        """
        waiting, done, answered, outages = iter(chunks), 0, False, 0
        stop: HealError | None = None
        outage = ""
        pending: set[Future[_Outcome]] = set()
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="ask")
        try:
            while True:
                # Twice as many as run at a time: workers do not idle while the caller stores, and memory stays bounded.
                while stop is None and len(pending) < 2 * self._concurrency:
                    if (chunk := next(waiting, None)) is None:
                        break
                    pending.add(executor.submit(self._ask, chunk))
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
                    yield outcome.written
                if stop is not None:
                    pending = {future for future in pending if not future.cancel()}
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
        if stop is None and outage and not answered:
            stop = self._unavailable(outage)
        if stop is not None:
            raise stop

    def _reason_to_stop(self, trouble: _Trouble, message: str, answered: bool, outages: int) -> HealError | None:
        # 403 is also how some gateways moderate a single text; it is the key's fault only if nothing ever worked.
        if trouble == "denied" or (trouble == "forbidden" and not answered):
            return SettingsError(
                f"the LLM endpoint {self._base_url} refused model {self.model!r}: {message}; check HEAL_LLM_BASE_URL "
                "(it usually ends in /v1), HEAL_LLM_API_KEY and HEAL_LLM_MODEL"
            )
        if (trouble == "unreachable" and not answered) or outages >= _OUTAGES_PER_WORKER * self._concurrency:
            return self._unavailable(message)
        return None

    def _unavailable(self, message: str) -> RetryableError:
        return RetryableError(
            f"the LLM endpoint {self._base_url} does not answer: {message}; check that it runs, and run the step again "
            "(what was written is kept)"
        )

    def _ask(self, chunk: ChunkToAsk) -> _Outcome:
        calls: list[Call] = []
        token_limit = _TOKENS_PER_QUESTION * (self._questions_per_chunk + 1)
        problem, corrections, lengthened = "", 0, False
        while True:
            start = time.monotonic()
            try:
                reply = self._reply(chunk, token_limit, problem)
            except (openai.OpenAIError, ValueError) as error:
                status, trouble = _classify(error)
                calls.append(Call(status, 0, 0, time.monotonic() - start, self._redacted(error)))
                return _Outcome(Written(chunk, (), tuple(calls)), trouble)
            latency_s = time.monotonic() - start
            calls.append(Call(reply.status, reply.input_tokens, reply.output_tokens, latency_s, reply.raw))
            if reply.cut_off and not lengthened:
                lengthened, token_limit = True, 2 * token_limit
            elif reply.status == "invalid" and not reply.cut_off and corrections < _MAX_CORRECTIONS:
                corrections, problem = corrections + 1, reply.problem
            else:
                return _Outcome(Written(chunk, reply.drafts, tuple(calls)))

    def _reply(self, chunk: ChunkToAsk, token_limit: int, problem: str) -> ReplyRead:
        conversation = messages(chunk, self._questions_per_chunk, problem)
        dialect = self._dialect
        tried: set[_Dialect] = set()
        while True:
            tried.add(dialect)
            # Typed loosely: the SDK's overloads cannot express fields that depend on what the server understands.
            request: dict[str, Any] = {"messages": conversation, **dialect.fields(token_limit, self._temperature)}
            try:
                response = self._client.chat.completions.with_raw_response.create(model=self.model, **request)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if error.code in _REFUSAL_CODES | _HOPELESS_CODES:
                    raise
                simpler = (other for other in dialect.simpler(str(error)) if other not in tried)
                if (following := next(simpler, None)) is None:
                    raise
                dialect = following
                continue
            self._dialect = dialect
            return read_completion(response.text)

    def _redacted(self, error: Exception) -> str:
        text = storable(f"{type(error).__name__}: {error}")
        return (text.replace(self._secret, "[key]") if self._secret else text)[:_ERROR_CHARS]


def _classify(error: Exception) -> tuple[CallStatus, _Trouble]:
    if isinstance(error, openai.BadRequestError) and error.code in _REFUSAL_CODES:
        return "refused", "rejected"
    if isinstance(error, openai.AuthenticationError | openai.NotFoundError):
        return "failed", "denied"
    if isinstance(error, openai.PermissionDeniedError):
        return "failed", "forbidden"
    if isinstance(error, openai.APITimeoutError):
        return "failed", "outage"
    if isinstance(error, openai.APIConnectionError):
        return "failed", "unreachable"
    if isinstance(error, openai.RateLimitError | openai.InternalServerError):
        return "failed", "outage"
    return "failed", "rejected"
