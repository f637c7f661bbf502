"""Reads what a chat-completions server sends back, however loosely it keeps to the format.

The SDK's own ``parse`` is not used: when a reply does not validate it raises and drops the reply with its token
counts, which the ledger needs.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from heal_tasks.core.errors import InputError
from heal_tasks.questions.llm.prompts import Reply
from heal_tasks.questions.writer import CallStatus, Draft, storable

T = TypeVar("T")

_REASONING = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OPENING = re.compile(r"[{\[]")
_MOST_OPENINGS = 50
_PROBLEM_CHARS = 500
_RAW_CHARS = 20_000
REFUSAL_CODES = {"content_filter", "content_policy_violation"}
"""Error codes by which an endpoint refuses a text, rather than failing."""
NO_JSON = "it holds no complete JSON object"


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
    usage: _Usage | None = None


class _AnyBody(BaseModel):
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What a server sent, before anything is made of its text.

    Args:
        content: the model's text; empty where there is none.
        refusal: why it refused; empty where it did not.
        finish_reason: as the server gives it.
        problem: why the body is no chat completion with a choice; empty where it is.
        input_tokens: 0 where the server does not say.
        output_tokens: 0 where the server does not say.
        raw: the model's text, or the whole body where there is none.
    """

    content: str
    refusal: str
    finish_reason: str
    problem: str
    input_tokens: int
    output_tokens: int
    raw: str


@dataclass(frozen=True, slots=True)
class ReplyRead(Generic[T]):
    """A server's reply, read.

    Args:
        status: ok, refused or invalid.
        value: what an ok reply holds; None otherwise.
        problem: what was wrong with an invalid one, for the model to read.
        cut_off: whether an invalid reply had reached the limit of tokens.
        input_tokens: 0 where the server does not say.
        output_tokens: 0 where the server does not say.
        raw: the model's text, or the whole body where there is none.
    """

    status: CallStatus
    value: T | None
    problem: str
    cut_off: bool
    input_tokens: int
    output_tokens: int
    raw: str


def reported_tokens(body: str) -> tuple[int, int]:
    """Input and output tokens that a body reports, whatever else is in it, as an error's may; 0 where it does not."""
    try:
        usage = _AnyBody.model_validate_json(body).usage or _Usage()
    except ValidationError:
        return 0, 0
    return usage.prompt_tokens or 0, usage.completion_tokens or 0


def read_message(body: str) -> Message:
    """Read the body of a successful chat completion.

    Args:
        body: the HTTP body, whatever is in it.

    Returns:
        The first choice; one with a problem where there is none.
    """
    tokens, whole = reported_tokens(body), storable(body)[:_RAW_CHARS]
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError:
        problem = "the server's reply is not a chat completion; an OpenAI-compatible base URL usually ends in /v1"
        return Message("", "", "", problem, *tokens, whole)
    if not completion.choices:
        return Message("", "", "", "the reply has no choice", *tokens, whole)
    choice = completion.choices[0]
    content, refusal = storable(choice.message.content or ""), storable(choice.message.refusal or "")
    return Message(content, refusal, choice.finish_reason or "", "", *tokens, refusal or content)


def read_completion(body: str, parse: Callable[[str], T]) -> ReplyRead[T]:
    """Read the body of a successful chat completion.

    Args:
        body: the HTTP body, whatever is in it.
        parse: reads the model's text; raises ValueError where it is no use.

    Returns:
        What the model said; invalid where the body is not a chat completion, has no choice or no usable JSON.
    """
    message = read_message(body)
    tokens = (message.input_tokens, message.output_tokens)
    if message.problem:
        return ReplyRead("invalid", None, message.problem, False, *tokens, message.raw)
    if message.refusal or message.finish_reason == "content_filter":
        return ReplyRead("refused", None, "", False, *tokens, message.raw)
    try:
        value = parse(message.content)
    except ValueError as error:
        cut_off = message.finish_reason == "length"
        return ReplyRead("invalid", None, str(error)[:_PROBLEM_CHARS], cut_off, *tokens, message.raw)
    return ReplyRead("ok", value, "", False, *tokens, message.raw)


def parse_drafts(content: str) -> tuple[Draft, ...]:
    """Find the asked-for questions in a model's text.

    Args:
        content: JSON, possibly inside a Markdown fence, after a reasoning block or between sentences; a bare list
            of items is accepted too.

    Returns:
        The drafts, with blanks collapsed.

    Raises:
        ValueError: there is none; the message names the first thing that is wrong.
    """
    problem, empty = "", False
    for value in json_values(content):
        try:
            reply = Reply.model_validate({"items": value} if isinstance(value, list) else value)
        except ValidationError as error:
            problem = problem or first_problem(error)
            continue
        if value == []:
            empty = True
            continue
        return tuple(
            Draft(item.type, tidy(item.query), tidy(item.answer), tidy(item.evidence_quote)) for item in reply.items
        )
    if empty:
        return ()
    raise ValueError(problem or NO_JSON)


def parse_object(content: str, read: Callable[[object], T]) -> T:
    """Find the asked-for JSON object in a model's text.

    Args:
        content: JSON, possibly inside a Markdown fence, after a reasoning block or between sentences.
        read: makes something of an object; raises ValidationError or InputError where it is not the one asked for.

    Returns:
        What ``read`` makes of the first object that it accepts.

    Raises:
        InputError: there is none; the message names the first thing that is wrong and quotes nothing of the reply, so
            that it can be sent back as an instruction.
    """
    problem = ""
    for value in json_values(content):
        if not isinstance(value, dict):
            continue
        try:
            return read(value)
        except ValidationError as error:
            problem = problem or first_problem(error)
        except InputError as error:
            problem = problem or str(error)
    raise InputError(problem or NO_JSON)


def json_values(text: str) -> Iterator[object]:
    """Objects and lists in a model's text, wherever they stand.

    Args:
        text: JSON, possibly inside a Markdown fence, after a reasoning block or between sentences.

    Yields:
        Each in turn; none that is part of another.
    """
    text = _REASONING.sub("", text)
    decoder, end = json.JSONDecoder(), 0
    for _ in range(_MOST_OPENINGS):
        if (opening := _OPENING.search(text, end)) is None:
            return
        try:
            value, end = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            end = opening.end()
            continue
        yield value


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a reply; quotes nothing of it, so that it can be sent as an instruction."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def tidy(text: str) -> str:
    """Text that can be stored, with blanks collapsed."""
    return " ".join(storable(text).split())
