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
class Message:
    """The first choice of a chat completion.

    Args:
        content: the model's text; empty where there is none.
        refusal: why the model refused; empty where it did not.
        finish_reason: as the server gives it.
        problem: why the body is no chat completion with a choice; empty where it is.
        raw: refusal or text; the whole body where there is neither.
    """

    content: str
    refusal: str
    finish_reason: str
    problem: str
    raw: str


@dataclass(frozen=True, slots=True)
class ParsedReply(Generic[T]):
    """A chat completion, parsed.

    Args:
        call: its row of the ledger, whose status is ok, refused or invalid.
        value: the parsed text of an ok reply; None otherwise.
        problem: what was wrong with an invalid one, for the model to read.
        cut_off: whether an invalid reply had reached the token limit.
    """

    call: Call
    value: T | None = None
    problem: str = ""
    cut_off: bool = False


def reported_tokens(body: str) -> tuple[int, int]:
    """Input and output tokens that a body reports, error bodies included; 0 where it does not."""
    try:
        usage = _AnyBody.model_validate_json(body).usage or _Usage()
    except ValidationError:
        return 0, 0
    return usage.prompt_tokens or 0, usage.completion_tokens or 0


def read_message(body: str) -> Message:
    """Read the body of a chat completion, whatever it contains."""
    whole = storable(body)[:_RAW_CHARS]
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError:
        problem = "the server's reply is not a chat completion; an OpenAI-compatible base URL usually ends in /v1"
        return Message("", "", "", problem, whole)
    if not completion.choices:
        return Message("", "", "", "the reply has no choice", whole)
    choice = completion.choices[0]
    content, refusal = storable(choice.message.content or ""), storable(choice.message.refusal or "")
    return Message(content, refusal, choice.finish_reason or "", "", refusal or content)


def read_completion(body: str, parse: Callable[[str], T], latency_s: float = 0.0) -> ParsedReply[T]:
    """Read and parse the body of a chat completion; invalid where it is none, or has no choice or no usable JSON.

    ``parse`` reads the model's text and raises ValueError where it is not usable.
    """
    message = read_message(body)

    def call(status: CallStatus) -> Call:
        return Call(status, *reported_tokens(body), latency_s, message.raw)

    if message.problem:
        return ParsedReply(call("invalid"), problem=message.problem)
    if message.refusal or message.finish_reason == "content_filter":
        return ParsedReply(call("refused"))
    try:
        return ParsedReply(call("ok"), parse(message.content))
    except ValueError as error:
        cut_off = message.finish_reason == "length"
        return ParsedReply(call("invalid"), problem=str(error)[:_PROBLEM_CHARS], cut_off=cut_off)


def parse_object(content: str, read: Callable[[object], T], *, lists: bool = False) -> T:
    """Find the requested JSON object in a model's text.

    Args:
        content: JSON, possibly inside a Markdown fence, after a reasoning block or between sentences.
        read: converts an object; raises ValidationError or InputError where it is not the requested one.
        lists: whether ``read`` accepts lists that are not empty, too.

    Returns:
        The first object that ``read`` accepts, converted.

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
