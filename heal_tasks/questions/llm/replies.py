"""Reads chat completions, however loosely a server keeps to the format.

The SDK's own ``parse`` is not used: where a reply does not validate, it raises and drops the reply with its token
counts, which the ledger needs.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from heal_tasks.core.errors import InputError
from heal_tasks.core.text import storable
from heal_tasks.core.types import JsonObject
from heal_tasks.questions.writer import Call, CallStatus

T = TypeVar("T")

REFUSAL_CODES = {"content_filter", "content_policy_violation"}
"""Error codes by which an endpoint refuses a text."""


def _strict(schema: JsonObject) -> None:
    schema["additionalProperties"] = False
    # A changed docstring must not change the prompt's hash.
    schema.pop("description", None)


STRICT = ConfigDict(json_schema_extra=_strict, coerce_numbers_to_str=True)
"""Of models of replies: extra keys are forbidden in the schema, and ignored where they come anyway."""

_REASONING = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r"[{\[]")
_MAX_OPENINGS = 50
_PROBLEM_CHARS = 500
_RAW_CHARS = 20_000
_ERROR_CHARS = 2000


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice]


class _AnyBody(BaseModel):
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True)
class ParsedReply(Generic[T]):
    """A chat completion, parsed."""

    call: Call  # its row of the ledger, with status ok, refused or invalid
    value: T | None = None  # the parsed text of an ok reply
    problem: str = ""  # what was wrong with an invalid one, for the model to read
    cut_off: bool = False  # whether an invalid reply had reached the token limit


def reported_tokens(body: str) -> tuple[int, int]:
    """Input and output tokens that a body reports, error bodies included; 0 where it does not."""
    try:
        usage = _AnyBody.model_validate_json(body).usage or _Usage()
    except ValidationError:
        return 0, 0
    return usage.prompt_tokens or 0, usage.completion_tokens or 0


def read_completion(body: str, parse: Callable[[str], T], latency_s: float = 0.0) -> ParsedReply[T]:
    """Read and parse the body of a chat completion; invalid where it is none, or has no choice or no usable JSON.

    ``parse`` reads the model's text and raises ValueError where it is not usable.
    """

    def call(status: CallStatus, raw_reply: str) -> Call:
        return Call(status, *reported_tokens(body), latency_s, raw_reply)

    whole = storable(body)[:_RAW_CHARS]
    try:
        choices = _Completion.model_validate_json(body).choices
    except ValidationError:
        problem = "the server's reply is not a chat completion; an OpenAI-compatible base URL usually ends in /v1"
        return ParsedReply(call("invalid", whole), problem=problem)
    if not choices:
        return ParsedReply(call("invalid", whole), problem="the reply has no choice")
    message, finish_reason = choices[0].message, choices[0].finish_reason
    content, refusal = storable(message.content or ""), storable(message.refusal or "")
    if refusal or finish_reason == "content_filter":
        return ParsedReply(call("refused", refusal or content))
    try:
        return ParsedReply(call("ok", content), parse(content))
    except ValueError as error:
        problem = str(error)[:_PROBLEM_CHARS]
        return ParsedReply(call("invalid", content), problem=problem, cut_off=finish_reason == "length")


def parse_object(content: str, read: Callable[[object], T], *, lists: bool = False) -> T:
    """Find the requested JSON object in a model's text.

    Args:
        content: JSON, possibly inside a Markdown fence, after a reasoning block or between sentences.
        read: converts the first object that it accepts; raises ValidationError or InputError for the others.
        lists: whether ``read`` accepts lists that are not empty, too.

    Raises:
        InputError: there is none; the message names the first thing that is wrong and quotes nothing of the reply, so
            that it can be sent back as an instruction.
    """
    problem = ""
    for value in json_values(content):
        if not isinstance(value, dict) and not (lists and value):
            continue
        try:
            return read(value)
        except ValidationError as error:
            problem = problem or _first_problem(error)
        except InputError as error:
            problem = problem or str(error)
    raise InputError(problem or "it holds no complete JSON object")


def json_values(text: str) -> Iterator[object]:
    """Yield each outermost JSON object or list in a model's text, also between sentences or after a reasoning block."""
    text = _REASONING.sub("", text)
    decoder, end = json.JSONDecoder(), 0
    for _ in range(_MAX_OPENINGS):
        if (opening := _OPENING.search(text, end)) is None:
            return
        try:
            value, end = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            end = opening.end()
            continue
        yield value


def _first_problem(error: ValidationError) -> str:
    """The first problem; quotes nothing of the reply, so that it can be sent back as an instruction."""
    first = error.errors(include_url=False, include_input=False)[0]
    # A model knows JSON's lists, not Python's tuples.
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].replace('tuple', 'list')}"


def tidy(text: str) -> str:
    """Text that can be stored, with blanks collapsed."""
    return " ".join(storable(text).split())


def redacted(text: str, secret: str | None) -> str:
    """The beginning of an error message, without a secret, that can be stored."""
    text = storable(text)
    return (text.replace(secret, "[key]") if secret else text)[:_ERROR_CHARS]
