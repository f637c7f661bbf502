"""Reads chat completions, however loosely a server keeps to the format.

The SDK's own ``parse`` is not used: where a reply does not validate, it raises and drops the reply with its token
counts, which the ledger needs.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic

from pydantic import AfterValidator, AliasPath, BaseModel, ConfigDict, Field, ValidationError

from heal_tasks.core.errors import InputError
from heal_tasks.core.redaction import redacted
from heal_tasks.core.text import printable, storable
from heal_tasks.core.types import JsonObject
from heal_tasks.endpoint.calls import Call, CallStatus, guess_tokens, reported_tokens
from heal_tasks.questions.llm.control_tokens import mended
from heal_tasks.questions.writer import T


def _strict(schema: JsonObject) -> None:
    schema["additionalProperties"] = False
    # A changed docstring must not change the prompt's hash.
    schema.pop("description", None)


STRICT = ConfigDict(json_schema_extra=_strict, coerce_numbers_to_str=True)
"""Of models of replies: extra keys are forbidden in the schema, and ignored where they come anyway."""

TidyText = Annotated[
    str, AfterValidator(lambda text: " ".join(printable(mended(storable(text))).split())[:_TEXT_CHARS])
]
"""Text of a reply that can be stored, without control characters, with blanks collapsed, and cut."""

_REASONING_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_OPENING = re.compile(r"[{\[]")
_REASONING_FIELDS = ("reasoning_content", "reasoning")
# Of finish reasons, as OpenAI, Google and Anthropic name them.
_CUT_OFF = {"length", "max_tokens"}
_FILTERED = {"content_filter", "safety", "prohibited_content", "refusal"}
_MAX_OPENINGS = 50
_PROBLEM_CHARS = 500
_RAW_CHARS = 20_000
_TEXT_CHARS = 4000  # of a question, an answer or a name: far more than any that can be used


class _Completion(BaseModel):
    choice: dict[str, Any] = Field(validation_alias=AliasPath("choices", 0))


@dataclass(frozen=True, slots=True)
class ParsedReply(Generic[T]):
    """A chat completion, parsed."""

    call: Call  # its row of the ledger, with status ok, refused or invalid
    value: T | None = None  # the parsed text of an ok reply
    problem: str = ""  # the error in an invalid one, for the model to read
    cut_off: bool = False  # an invalid one that had reached the token limit


def read_completion(
    body: str, parse: Callable[[str], T], latency_s: float = 0.0, sent_bytes: int = 0
) -> ParsedReply[T]:
    """Read the body of a chat completion and the text in it, by ``parse``, which raises ValueError for useless text.

    ``sent_bytes`` is the size of the prompt, for a guess where the server counts no tokens.
    """

    def call(status: CallStatus, raw_reply: str) -> Call:
        tokens = reported_tokens(body)
        received_bytes = len(raw_reply.encode())
        guessed = (0, 0) if any(tokens) else (guess_tokens(sent_bytes), guess_tokens(received_bytes))
        # A server may repeat the request's headers, with the key in them.
        return Call(status, *tokens, latency_s, redacted(raw_reply)[:_RAW_CHARS], guessed)

    try:
        choice = _Completion.model_validate_json(body.lstrip("\ufeff")).choice
    except ValidationError:
        problem = "the reply is no chat completion with a choice; an OpenAI-compatible base URL usually ends in /v1"
        return ParsedReply(call("invalid", storable(body)), problem=problem)
    message: JsonObject = choice["message"] if isinstance(choice.get("message"), dict) else {}
    finish = str(choice.get("finish_reason") or "").lower()
    cut_off = finish in _CUT_OFF
    content, refusal = storable(_content(choice, message, cut_off=cut_off)), message.get("refusal")
    if (refusal and isinstance(refusal, str)) or finish in _FILTERED:
        return ParsedReply(call("refused", storable(refusal) if isinstance(refusal, str) and refusal else content))
    try:
        return ParsedReply(call("ok", content), parse(content))
    except ValueError as error:
        return ParsedReply(call("invalid", content), problem=str(error)[:_PROBLEM_CHARS], cut_off=cut_off)


def _content(choice: JsonObject, message: JsonObject, *, cut_off: bool) -> str:
    """The text of a choice, wherever a server puts it; where there is none, the JSON that its reasoning ends with."""
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls and isinstance(calls[0], dict) else {}
    function = call.get("function") or message.get("function_call")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    for value in (message.get("content"), message.get("parsed"), arguments, choice.get("text")):
        if text := _text(value):
            return text
    if cut_off:
        return ""  # reasoning that has used up the limit contains drafts, and no answer
    reasoning = next(filter(None, (_text(message.get(name)) for name in _REASONING_FIELDS)), "")
    last = [(start, end) for start, end, _ in _json_values(reasoning)][-1:]
    return next((reasoning[start:end] for start, end in last if not reasoning[end:].strip("`. \n")), "")


def _text(value: object) -> str:
    """A text, the texts in a list of parts, or an object as JSON."""
    if isinstance(value, str):
        return value if value.strip() else ""
    if isinstance(value, dict):
        return json.dumps(value)
    if not isinstance(value, list):
        return ""
    parts = (part.get("text") if isinstance(part, dict) else part for part in value)
    return "".join(part for part in parts if isinstance(part, str))


def parse_object(content: str, read: Callable[[object], T], *, lists: bool = False) -> T:
    """Find the requested JSON object in a model's text, inside a fence, after a reasoning block or between sentences.

    The end of a reasoning block is no end where it stands inside a JSON value, because answers may mention it. What a
    model drafts in such a block is not its answer. ``read`` converts the first object that it accepts, and raises
    ValidationError or InputError for the others. With ``lists`` it gets lists, too; empty ones last, because they may
    be part of a sentence.

    Raises:
        InputError: there is none; the message names the first thing that is wrong and quotes nothing of the reply, so
            that it can be sent back as an instruction.
    """
    problem = ""
    for value in sorted(_answers(content), key=lambda value: value == []):
        if not lists and not isinstance(value, dict):
            continue
        try:
            return read(value)
        except ValidationError as error:
            problem = problem or _first_problem(error)
        except InputError as error:
            problem = problem or str(error)
    raise InputError(problem or "it holds no complete JSON object")


def _answers(text: str) -> list[object]:
    """Each outermost JSON object or list after the reasoning in a model's text."""
    found = list(_json_values(text))
    ends = (
        match.end()
        for match in _REASONING_END.finditer(text)
        if not any(start < match.start() < end for start, end, _ in found)
    )
    after = max(ends, default=0)
    if not text[after:].strip():
        after = 0  # all is inside the block
    values = [value for start, _, value in found if start >= after]
    # A long reasoning may use up the openings that are looked at.
    return values or [value for _, _, value in _json_values(text, after)]


def _json_values(text: str, end: int = 0) -> Iterator[tuple[int, int, object]]:
    """Begin, end and value of each outermost JSON object or list from a place in a model's text."""
    decoder = json.JSONDecoder(strict=False)  # models copy quotations with their line breaks as they are
    for _ in range(_MAX_OPENINGS):
        if (opening := _OPENING.search(text, end)) is None:
            return
        try:
            value, end = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            end = opening.end()
            continue
        yield opening.start(), end, value


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    # A model knows JSON's lists, not Python's tuples.
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].replace('tuple', 'list')}"
