"""The OpenAI Batch API: files of one request or reply per line, and a client that creates and watches batches.

Each line is read by itself and as a reply to a single call is: a batch with one bad line is a good batch with one chunk
to ask about again. Replies come in any order, so a request is identified by the hash of its text.

The SDK must not repeat creating a batch: a request whose reply got lost may have been carried out, and a second batch
would be paid, too. So the batch's metadata contains a key of our own to find it by.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Literal

import httpx2
import openai
from pydantic import AliasChoices, AliasPath, BaseModel, Field, ValidationError

from heal_tasks.core.errors import RetryableError, SettingsError, StepError
from heal_tasks.core.redaction import redacted
from heal_tasks.core.text import storable
from heal_tasks.core.types import BATCH_ENDED, JsonObject
from heal_tasks.endpoint.attempts import GivenUpError, settle_status
from heal_tasks.endpoint.calls import Call, CallStatus, reported_tokens, without_key
from heal_tasks.endpoint.complaints import REFUSAL_CODES, error_codes, error_status
from heal_tasks.endpoint.endpoint import LLM, Wording
from heal_tasks.endpoint.transport import bound, bounded_client, bounded_lines
from heal_tasks.questions.llm.replies import ParsedReply, read_completion
from heal_tasks.questions.writer import T

MAX_REQUESTS = 50_000
MAX_FILE_BYTES = 200_000_000
"""Of one batch, as OpenAI documents them (openai 3.52, ``batches.create``)."""

BatchPath = Literal["/v1/chat/completions", "/v1/embeddings"]
CHAT: BatchPath = "/v1/chat/completions"
EMBED: BatchPath = "/v1/embeddings"

# Error codes of requests that were never run, so that nothing was paid.
_NOT_RUN = {"batch_expired", "batch_cancelled"}
_RAW_CHARS = 2000
_KEY = "heal_batch"
_MAX_RETRIES = 3
_MISSING = {404, 405, 501}
_PROBLEM_CHARS = 500
_FILE_S = 3600.0
"""Longest time for sending a file or fetching one; at 1 Mbit/s it is enough for 450 MB."""

MAX_RESULT_BYTES = 4 << 30
"""Largest result file: 50,000 replies of 80 KB."""


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
    return _line(custom_id, CHAT, {"model": model, "messages": messages, **fields})


def embedding_line(custom_id: str, model: str, text: str, dimensions: int) -> bytes:
    """The same for a text to embed; 0 asks for as many dimensions as the model has.

    Vectors come as decimal numbers, which every server has.
    """
    return _line(
        custom_id, EMBED, {"model": model, "input": [text]} | ({"dimensions": dimensions} if dimensions else {})
    )


def _line(custom_id: str, path: BatchPath, body: JsonObject) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": path, "body": body}).encode() + b"\n"


def batch_sizes(line_bytes: Iterable[int]) -> Iterator[int]:
    """Divide lines, given by their lengths, into batches that an endpoint accepts, and yield the batches' sizes.

    A line longer than a file may be gets a batch of its own.
    """
    count = size = 0
    for length in line_bytes:
        if count and (count == MAX_REQUESTS or size + length > MAX_FILE_BYTES):
            yield count
            count = size = 0
        count, size = count + 1, size + length
    if count:
        yield count


def read_line(line: str, parse: Callable[[str], T]) -> tuple[str, ParsedReply[T] | None] | None:
    """Read a line of an output or error file: the request's id and its reply, None where the request was never run.

    ``parse`` is that of ``read_completion``. A line that does not name its request gives None.
    """
    return read_reply(line, lambda body: read_completion(body, parse), "choices")


def read_reply(
    line: str, read: Callable[[str], ParsedReply[T]], expected: str
) -> tuple[str, ParsedReply[T] | None] | None:
    """As ``read_line``, by a reader of the bodies of replies; ``expected`` is that of ``error_status``."""
    try:
        found = _Line.model_validate_json(line)
    except ValidationError:
        return None
    body = json.dumps(found.body)
    if not found.error and found.status_code == 200 and error_status(200, body, expected) is None:
        return found.custom_id, read(body)
    if str(found.code) in _NOT_RUN:
        return found.custom_id, None
    status: CallStatus = "refused" if {str(found.code), *error_codes(body)} & REFUSAL_CODES else "failed"
    call = Call(status, *reported_tokens(body), 0.0, redacted(storable(line))[:_RAW_CHARS])
    return found.custom_id, ParsedReply(call)


class NoBatchApiError(SettingsError):
    """The endpoint has no Batch API."""


@dataclass(frozen=True, slots=True)
class Job:
    """A batch as the endpoint sees it: status, numbers of requests, result files (output, then errors), complaints."""

    status: str
    done: int
    failed: int
    files: tuple[str, ...]
    problem: str

    @property
    def ended(self) -> bool:
        """True once its status is final."""
        return self.status in BATCH_ENDED


class BatchApi:
    """Batches of requests for one path of an OpenAI-compatible endpoint."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        timeout_s: float,
        path: BatchPath = CHAT,
        wording: Wording = LLM,
    ) -> None:
        self._endpoint, self._secret = without_key(f"the {wording.kind} endpoint {base_url}", api_key), api_key
        self._path, self._wording = path, wording
        self._timeout_s, self._local = timeout_s, threading.local()
        self._client = openai.OpenAI(
            base_url=base_url, api_key=api_key or "none", timeout=timeout_s, max_retries=_MAX_RETRIES,
            http_client=bounded_client(lambda: self._local.deadline_s, request=self._before, response=self._after),
        )  # fmt: skip

    def check(self) -> None:
        """Raise NoBatchApiError where the endpoint has no Batch API."""
        what = "has no Batch API (set HEAL_LLM_BATCH=off)"
        with self._errors(what):
            try:
                self._client.batches.list(limit=1)
            except GivenUpError as error:
                # Servers with pages of their own show one for every path that they do not know.
                raise NoBatchApiError(f"{self._endpoint} {what}: {error}") from None

    def upload(self, name: str, file: IO[bytes]) -> str:
        """Send a file of requests and return its id at the endpoint."""
        with self._errors("took no file"):
            return self._client.files.create(file=(f"{name}.jsonl", file), purpose="batch").id

    def create(self, batch_key: str, input_file_id: str) -> str:
        """Create a batch of a file's requests, with ``batch_key`` in its metadata, and return its id at the endpoint.

        Raises:
            RetryableError: the batch may or may not have been created.
            StepError: it was not.
        """
        with self._errors("created no batch"):
            return self._client.with_options(max_retries=0).batches.create(
                input_file_id=input_file_id, endpoint=self._path, completion_window="24h", metadata={_KEY: batch_key}
            ).id  # fmt: skip

    def find(self, batch_key: str) -> str | None:
        """The id of the batch with this key in its metadata; None where there is none."""
        with self._errors("lists no batches"):
            # No list can be filtered by metadata. All of it is read: overlooking a batch means paying for it twice.
            seen = set[str]()
            for item in self._client.batches.list(limit=100):
                if (item.metadata or {}).get(_KEY) == batch_key:
                    return item.id
                if item.id in seen:  # a server without pages sends its only one again and again
                    break
                seen.add(item.id)
            return None

    def job(self, batch_id: str) -> Job | None:
        """Status and files of a batch; None where the endpoint knows no such batch."""
        try:
            with self._errors("does not say how far a batch is"):
                batch = self._client.batches.retrieve(batch_id)
        except NoBatchApiError:
            return None
        counts = batch.request_counts
        errors = (batch.errors.data or []) if batch.errors else []
        files = tuple(item for item in (batch.output_file_id, batch.error_file_id) if item)
        problem = "; ".join(dict.fromkeys(f"{item.code}: {item.message}" for item in errors))[:_PROBLEM_CHARS]
        return Job(batch.status, counts.completed if counts else 0, counts.failed if counts else 0, files, problem)

    def lines(self, file_id: str) -> Iterator[str]:
        """Yield the lines of a result file as they arrive, without those that are too long for a reply."""
        with self._errors("does not hand out a result file"):
            try:
                with self._client.files.with_streaming_response.content(file_id) as response:
                    for number, line in enumerate(bounded_lines(response.iter_bytes())):
                        if not number and "custom_id" not in line and error_status(200, line) is not None:
                            raise openai.OpenAIError(f"instead of the file comes {line[:_PROBLEM_CHARS]}")
                        yield line
            except httpx2.RequestError as error:
                raise openai.APIConnectionError(message=f"Connection lost: {error}", request=error.request) from error

    def cancel(self, batch_id: str) -> None:
        """Ask for a batch to end early; its replies until then are kept."""
        with self._errors("does not cancel a batch"):
            self._client.batches.cancel(batch_id)

    def delete_files(self, *file_ids: str | None) -> None:
        """Delete files that are no longer needed, where the endpoint can."""
        for file_id in filter(None, file_ids):
            with suppress(openai.OpenAIError):
                self._client.with_options(max_retries=0).files.delete(file_id)

    def _before(self, request: httpx2.Request) -> None:
        moves_file = request.url.path.endswith(("/files", "/content"))
        self._local.deadline_s = time.monotonic() + (_FILE_S if moves_file else self._timeout_s)

    def _after(self, response: httpx2.Response) -> None:
        if response.is_success and response.request.url.path.endswith("/content"):
            bound(response, MAX_RESULT_BYTES)
        else:
            settle_status(response, self._secret)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        endpoint = self._endpoint
        try:
            yield
        except (AttributeError, TypeError) as error:
            raise RetryableError(f"{endpoint} {what}: its reply is none of a Batch API ({error})") from None
        except openai.OpenAIError as error:
            complaint = without_key(f"{type(error).__name__}: {error}", self._secret)
            if not isinstance(error, openai.APIStatusError):
                raise RetryableError(f"{endpoint} does not answer: {complaint}; run the step again later") from None
            message = f"{endpoint} {what}: {complaint}"
            if error.status_code in _MISSING:
                raise NoBatchApiError(message) from None
            if error.status_code in (401, 403):
                raise SettingsError(f"{message}; check {self._wording.prefix}_API_KEY and what it may do") from None
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise RetryableError(f"{message}; run the step again later") from None
            raise StepError(message) from None
