"""The files of the OpenAI Batch API: a request on each line going out, a reply on each line coming back.

Every line is read by itself and exactly as a reply to a single call is: a batch in which one line is spoiled is a good
batch with one chunk to ask about again. Replies come in any order, so a request is known by the hash of its text.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from heal_tasks.core.types import JsonObject
from heal_tasks.questions.llm.replies import REFUSAL_CODES, read_completion, reported_tokens
from heal_tasks.questions.writer import Call, storable

T = TypeVar("T")

MAX_REQUESTS = 50_000
MAX_FILE_BYTES = 200_000_000
"""Of one batch, as OpenAI documents them (openai 3.52, ``batches.create``)."""

PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""Statuses of a batch that do not change any more."""

# Error codes of requests that were never run, so that nothing was paid.
_NOT_RUN = {"batch_expired", "batch_cancelled"}
_RAW_CHARS = 2000


class _Error(BaseModel):
    code: str | int | None = None


class _ErrorBody(BaseModel):
    error: _Error | None = None


class _Response(BaseModel):
    status_code: int | None = None
    body: Any = None


class _Line(BaseModel):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


@dataclass(frozen=True, slots=True)
class BatchReply(Generic[T]):
    """A line of a result file, read.

    Args:
        custom_id: the request's.
        call: the paid attempt; None where the request was never run.
        value: what an ok reply holds; None otherwise.
        problem: what was wrong with an invalid reply, for the model to read.
        cut_off: whether an invalid reply had reached the limit of tokens.
    """

    custom_id: str
    call: Call | None
    value: T | None = None
    problem: str = ""
    cut_off: bool = False


def request_line(custom_id: str, model: str, conversation: list[dict[str, str]], fields: JsonObject) -> bytes:
    """A line of the file that is sent.

    Args:
        custom_id: comes back with the reply.
        model: the model's name as the endpoint knows it.
        conversation: role and content of each message.
        fields: of the request, beside model and messages.

    Returns:
        JSON and a line feed.
    """
    body = {"model": model, "messages": conversation, **fields}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": PATH, "body": body}).encode() + b"\n"


def batch_sizes(
    line_bytes: Iterable[int], max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_FILE_BYTES
) -> Iterator[int]:
    """Cut lines into batches that an endpoint takes.

    Args:
        line_bytes: length of each line.
        max_requests: most lines of a batch.
        max_bytes: most bytes of a batch; a line that is longer gets a batch of its own.

    Yields:
        How many of the next lines make a batch.
    """
    count = size = 0
    for length in line_bytes:
        if count and (count == max_requests or size + length > max_bytes):
            yield count
            count = size = 0
        count, size = count + 1, size + length
    if count:
        yield count


def read_line(line: str, parse: Callable[[str], T]) -> BatchReply[T] | None:
    """Read a line of an output or error file.

    Args:
        line: whatever is in it.
        parse: reads the model's text; raises ValueError where it is no use.

    Returns:
        The reply; None for a line that does not say which request it belongs to.
    """
    try:
        found = _Line.model_validate_json(line)
    except ValidationError:
        return None
    response = found.response or _Response()
    body = json.dumps(response.body)
    if found.error is None and response.status_code == 200:
        reply = read_completion(body, parse)
        call = Call(reply.status, reply.input_tokens, reply.output_tokens, 0.0, reply.raw)
        return BatchReply(found.custom_id, call, reply.value, reply.problem, reply.cut_off)
    code = (found.error or _error_in(response.body) or _Error()).code
    if code in _NOT_RUN:
        return BatchReply(found.custom_id, None)
    status: Literal["refused", "failed"] = "refused" if code in REFUSAL_CODES else "failed"
    return BatchReply(found.custom_id, Call(status, *reported_tokens(body), 0.0, storable(line)[:_RAW_CHARS]))


def _error_in(body: Any) -> _Error | None:
    try:
        return _ErrorBody.model_validate(body).error
    except ValidationError:
        return None
