"""Reads chat completions, however loosely a server keeps to the format.

The SDK's own ``parse`` is not used: where a reply does not validate, it raises and drops the reply with its token
counts, which the ledger needs.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Generic

from pydantic import AfterValidator, AliasPath, BaseModel, ConfigDict, Field, ValidationError

from heal_tasks.core.errors import InputError
from heal_tasks.core.text import storable
from heal_tasks.core.types import JsonObject
from heal_tasks.questions.writer import Call, CallStatus, T

REFUSAL_CODES = {"content_filter", "content_policy_violation"}
"""Error codes by which an endpoint refuses a text."""


def _strict(schema: JsonObject) -> None:
    schema["additionalProperties"] = False
    # A changed docstring must not change the prompt's hash.
    schema.pop("description", None)


STRICT = ConfigDict(json_schema_extra=_strict, coerce_numbers_to_str=True)
"""Of models of replies: extra keys are forbidden in the schema, and ignored where they come anyway."""

TidyText = Annotated[str, AfterValidator(lambda text: " ".join(storable(text).split()))]
"""Text of a reply that can be stored, with blanks collapsed."""

_REASONING = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r"[{\[]")
_MAX_OPENINGS = 50
_PROBLEM_CHARS = 500
_RAW_CHARS = 20_000
_ERROR_CHARS = 2000


class _Usage(BaseModel):
    sent: int | None = Field(None, validation_alias=AliasPath("usage", "prompt_tokens"))
    received: int | None = Field(None, validation_alias=AliasPath("usage", "completion_tokens"))


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Completion(BaseModel):
    message: _Message = Field(validation_alias=AliasPath("choices", 0, "message"))
    finish_reason: str | None = Field(None, validation_alias=AliasPath("choices", 0, "finish_reason"))


@dataclass(frozen=True, slots=True)
class ParsedReply(Generic[T]):
    """A chat completion, parsed."""

    call: Call  # its row of the ledger, with status ok, refused or invalid
    value: T | None = None  # the parsed text of an ok reply
    problem: str = ""  # the error in an invalid one, for the model to read
    cut_off: bool = False  # an invalid one that had reached the token limit


def reported_tokens(body: str) -> tuple[int, int]:
    """Input and output tokens that a body reports, error bodies included; 0 where it does not."""
    try:
        usage = _Usage.model_validate_json(body)
    except ValidationError:
        return 0, 0
    return usage.sent or 0, usage.received or 0


def read_completion(body: str, parse: Callable[[str], T], latency_s: float = 0.0) -> ParsedReply[T]:
    """Read the body of a chat completion and the text in it, by ``parse``, which raises ValueError for useless text."""

    def call(status: CallStatus, raw_reply: str) -> Call:
        return Call(status, *reported_tokens(body), latency_s, raw_reply)

    try:
        found = _Completion.model_validate_json(body)
    except ValidationError:
        problem = "the reply is no chat completion with a choice; an OpenAI-compatible base URL usually ends in /v1"
        return ParsedReply(call("invalid", storable(body)[:_RAW_CHARS]), problem=problem)
    content, refusal = storable(found.message.content or ""), storable(found.message.refusal or "")
    if refusal or found.finish_reason == "content_filter":
        return ParsedReply(call("refused", refusal or content))
    try:
        return ParsedReply(call("ok", content), parse(content))
    except ValueError as error:
        problem = str(error)[:_PROBLEM_CHARS]
        return ParsedReply(call("invalid", content), problem=problem, cut_off=found.finish_reason == "length")


def parse_object(content: str, read: Callable[[object], T], *, lists: bool = False) -> T:
    """Find the requested JSON object in a model's text, inside a fence, after a reasoning block or between sentences.

    ``read`` converts the first object that it accepts, and raises ValidationError or InputError for the others. With
    ``lists`` it gets lists, too; empty ones last, because they may be part of a sentence.

    Raises:
        InputError: there is none; the message names the first thing that is wrong and quotes nothing of the reply, so
            that it can be sent back as an instruction.
    """
    problem = ""
    for value in sorted(_json_values(content), key=lambda value: value == []):
        if not lists and not isinstance(value, dict):
            continue
        try:
            return read(value)
        except ValidationError as error:
            problem = problem or _first_problem(error)
        except InputError as error:
            problem = problem or str(error)
    raise InputError(problem or "it holds no complete JSON object")


def _json_values(text: str) -> Iterator[object]:
    """Each outermost JSON object or list in a model's text."""
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
    first = error.errors(include_url=False, include_input=False)[0]
    # A model knows JSON's lists, not Python's tuples.
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].replace('tuple', 'list')}"


def redacted(text: str, secret: str | None) -> str:
    """The beginning of an error message, without a secret, that can be stored."""
    text = storable(text)
    return (text.replace(secret, "[key]") if secret else text)[:_ERROR_CHARS]
