"""Chat completions of one endpoint, in the dialect that it understands."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

import openai

from heal_tasks.core.settings import OPENAI_URL
from heal_tasks.core.types import JsonObject
from heal_tasks.endpoint.attempts import Failure
from heal_tasks.endpoint.calls import Call
from heal_tasks.endpoint.complaints import REFUSAL_CODES, error_codes, is_too_long
from heal_tasks.endpoint.endpoint import Endpoint, EndpointConfig
from heal_tasks.questions.llm.dialect import PROBE_TOKENS, PROBED, Dialect, Probe
from heal_tasks.questions.llm.replies import ParsedReply, read_completion
from heal_tasks.questions.writer import T


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The outcome of one request."""

    reply: ParsedReply[T] | None
    calls: tuple[Call, ...]  # failed attempts that cost tokens, then the reply's or the request that was given up
    failure: Failure | None = None  # the reason where there is no reply


class Chat(Endpoint):
    """A chat endpoint for one run; safe to use from many threads."""

    def __init__(self, config: EndpointConfig, temperature: float) -> None:
        super().__init__(config, "choices")
        # The first to try, then the one that the server is known to understand. Older local servers know max_tokens
        # only; OpenAI's reasoning models know max_completion_tokens only.
        self.dialect = Dialect("json_schema", "max_completion_tokens" if config.url == OPENAI_URL else "max_tokens")
        self._temperature = temperature

    def probe(self) -> tuple[tuple[Call, ...], Failure | None]:
        """Find out how strictly the server keeps to a schema, and set the dialect; the calls, and why it failed."""
        probe, calls = Probe(), list[Call]()
        while self.dialect.reply != "text":
            answer = self.ask(probe.messages, probe.schema, PROBE_TOKENS, str)
            calls += answer.calls
            if answer.reply is None:
                return tuple(calls), answer.failure
            mode, call = self.dialect.reply, calls.pop()
            calls.append(replace(call, status="ok", raw_reply=f"{PROBED}, {mode}: {call.raw_reply}"))
            if probe.obeyed(mode, answer.reply.value or ""):
                break
            self.dialect = self.dialect.looser()
        return tuple(calls), None

    def ask(
        self, messages: list[dict[str, str]], schema: JsonObject, token_limit: int, parse: Callable[[str], T]
    ) -> Answer[T]:
        """Send one request, and read the reply by ``parse``. Nothing is raised, whatever the server does."""
        dialect, tried, attempts = self.dialect, set[Dialect](), self.attempts
        attempts.begin()
        while True:
            tried.add(dialect)
            fields = dialect.fields(schema, token_limit, self._temperature)
            try:
                body = self.send(self.client.chat.completions.with_raw_response.create, messages=messages, **fields)
            except (openai.OpenAIError, ValueError) as error:
                if simpler := _simpler(error, dialect, tried):
                    dialect = simpler
                    continue
                status, failure, message = self.failed(error)
                return Answer(None, (Call(status, *attempts.tokens, attempts.latency_s, message),), failure)
            self.dialect = dialect
            sent_bytes = len(json.dumps([messages, schema], ensure_ascii=False).encode())
            reply = read_completion(body, parse, attempts.latency_s, sent_bytes)
            return Answer(reply, (*attempts.paid(), reply.call))


def _simpler(error: Exception, dialect: Dialect, tried: set[Dialect]) -> Dialect | None:
    if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
        return None
    if error_codes(error.response.text) & REFUSAL_CODES or is_too_long(error.response.text):
        return None
    return next((other for other in dialect.simpler(error.response.text) if other not in tried), None)
