"""Files of the OpenAI Batch API: one request per line going out, one reply per line coming back.

Each line is read by itself and as a reply to a single call is: a batch with one bad line is a good batch with one chunk
to ask about again. Replies come in any order, so a request is identified by the hash of its text.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, AliasPath, BaseModel, Field, ValidationError

from heal_tasks.core.text import storable
from heal_tasks.core.types import JsonObject
from heal_tasks.questions.llm.replies import REFUSAL_CODES, ParsedReply, read_completion, reported_tokens
from heal_tasks.questions.writer import Call, CallStatus

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


class _Line(BaseModel):
    custom_id: str
    status_code: int | None = Field(None, validation_alias=AliasPath("response", "status_code"))
    body: Any = Field(None, validation_alias=AliasPath("response", "body"))
    error: Any = None
    code: Any = Field(
        None, validation_alias=AliasChoices(AliasPath("error", "code"), AliasPath("response", "body", "error", "code"))
    )


def request_line(custom_id: str, model: str, messages: list[dict[str, str]], fields: JsonObject) -> bytes:
    """Write a line of the file that is sent; the reply comes back with its ``custom_id``."""
    body = {"model": model, "messages": messages, **fields}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": PATH, "body": body}).encode() + b"\n"


def batch_sizes(
    line_bytes: Iterable[int], max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_FILE_BYTES
) -> Iterator[int]:
    """Divide lines, given by their lengths, into batches that an endpoint accepts, and yield the batches' sizes.

    A line longer than ``max_bytes`` gets a batch of its own.
    """
    count = size = 0
    for length in line_bytes:
        if count and (count == max_requests or size + length > max_bytes):
            yield count
            count = size = 0
        count, size = count + 1, size + length
    if count:
        yield count


def read_line(line: str, parse: Callable[[str], T]) -> tuple[str, ParsedReply[T] | None] | None:
    """Read a line of an output or error file: the request's id and its reply, None where the request was never run.

    ``parse`` is that of ``read_completion``. A line that does not name its request gives None.
    """
    try:
        found = _Line.model_validate_json(line)
    except ValidationError:
        return None
    body = json.dumps(found.body)
    if found.error is None and found.status_code == 200:
        return found.custom_id, read_completion(body, parse)
    if str(found.code) in _NOT_RUN:
        return found.custom_id, None
    status: CallStatus = "refused" if str(found.code) in REFUSAL_CODES else "failed"
    call = Call(status, *reported_tokens(body), 0.0, storable(line)[:_RAW_CHARS])
    return found.custom_id, ParsedReply(call)
