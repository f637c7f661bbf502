"""Files and batches of the fake endpoint.

A batch is worked on when it is asked for the ``polls``-th time. Its replies are those of the rule for single calls, in
shuffled order, because no endpoint promises one. A test changes how it ends with ``end``.
"""

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fake_embeddings import FakeEmbeddings
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error

PAGE = 3


@dataclass
class Job:
    """One batch.

    Attributes:
        body: as the endpoint shows it.
        requests: those in its file, by custom id.
        answers: replies by custom id, of the requests that are run.
        output: lines of the output file.
        errors: lines of the error file.
    """

    body: dict[str, Any]
    requests: dict[str, Request]
    answers: dict[str, Reply] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    polls: int = 0

    @property
    def status(self) -> str:
        return str(self.body["status"])

    @status.setter
    def status(self, value: str) -> None:
        self.body["status"] = value


def row(custom_id: str, reply: Reply) -> str:
    """A line of a result file."""
    response = {"status_code": reply.status, "request_id": "r", "body": reply.body}
    return json.dumps({"id": f"row_{custom_id}", "custom_id": custom_id, "response": response, "error": None})


def expire_half(job: Job) -> None:
    """The window closes when half of the requests have been run."""
    job.status = "expired"
    for custom_id in list(job.requests)[1::2]:
        del job.answers[custom_id]
        code = {"code": "batch_expired", "message": "This request could not be executed in time."}
        job.errors.append(json.dumps({"id": "e", "custom_id": custom_id, "response": None, "error": code}))


class FakeBatches:
    """The endpoint's memory; it outlives a server.

    Args:
        polls: at which look a batch has ended; 0 never.
        end: changes how a batch ends, before its result files are written.
        on_create: called with a new batch; a reply is sent instead of the batch's.

    Attributes:
        jobs: by id.
        files: content by id.
        deleted: ids of files that were deleted.
        looks: how often any batch was asked for.
        on_look: called at each look; a reply is sent instead of the batch.
        on_file: called for a result file; its reply is sent instead.
    """

    def __init__(
        self,
        polls: int = 1,
        end: Callable[[Job], None] | None = None,
        on_create: Callable[[Job], Reply | None] | None = None,
    ) -> None:
        self.polls, self.end, self.on_create = polls, end, on_create
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.looks = 0
        self.on_look: Callable[[Job], Reply | None] | None = None
        self.on_file: Callable[[], Reply] | None = None
        self._lock = threading.RLock()

    def handle(
        self, method: str, path: str, headers: dict[str, str], raw: bytes, server: FakeOpenAI | FakeEmbeddings
    ) -> Reply:
        """Answer a request below ``/v1/files`` or ``/v1/batches``."""
        kind, *rest = path.split("?")[0].removeprefix("/v1/").split("/")
        with self._lock:
            if kind == "files" and method == "POST":
                return self._upload(headers, raw)
            if kind == "files" and method == "DELETE":
                self.deleted.append(rest[0])
                return Reply({"id": rest[0], "object": "file", "deleted": self.files.pop(rest[0], None) is not None})
            if kind == "files":
                if self.on_file:
                    return self.on_file()
                content = self.files.get(rest[0])
                return Reply(content.decode()) if content is not None else error(404, "no such file")
            if method == "POST" and not rest:
                return self._create(json.loads(raw))
            if not rest:
                return self._list(parse_qs(urlsplit(path).query).get("after", [""])[0])
            job = self.jobs.get(rest[0])
            if job is None:
                return error(404, f"no batch {rest[0]}")
            return self._cancel(job, server) if rest[1:] else self._look(job, server)

    def _list(self, after: str) -> Reply:
        """The newest first, a few on a page."""
        names = list(reversed(self.jobs))
        rest = names[names.index(after) + 1 :] if after else names
        page = [self.jobs[name].body for name in rest[:PAGE]]
        return Reply({"object": "list", "data": page, "has_more": len(rest) > PAGE})

    def _upload(self, headers: dict[str, str], raw: bytes) -> Reply:
        form = message_from_bytes(b"Content-Type: " + headers["content-type"].encode() + b"\n\n" + raw)
        (part,) = [item for item in form.walk() if item.get_filename()]
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        name = f"file-{len(self.files) + len(self.deleted)}"
        self.files[name] = content
        described = {"id": name, "object": "file", "bytes": len(content), "created_at": 1, "purpose": "batch"}
        return Reply({**described, "filename": part.get_filename(), "status": "processed"})

    def _create(self, asked: dict[str, Any]) -> Reply:
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].decode().splitlines()]
        name = f"batch_{len(self.jobs)}"
        body = {
            "id": name, "object": "batch", "created_at": 1, "status": "in_progress", "errors": None, **asked,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        requests = {line["custom_id"]: Request(line["body"], {}, 0) for line in lines}
        assert len(requests) == len(lines), "a custom id is taken twice"
        job = self.jobs[name] = Job(body, requests)
        return (self.on_create(job) if self.on_create else None) or Reply(job.body)

    def _look(self, job: Job, server: FakeOpenAI | FakeEmbeddings) -> Reply:
        job.polls += 1
        self.looks += 1
        if self.on_look and (reply := self.on_look(job)):
            return reply
        if self.polls and job.polls >= self.polls and job.status == "in_progress":
            self._finish(job, "completed", server)
        return Reply(job.body)

    def _cancel(self, job: Job, server: FakeOpenAI | FakeEmbeddings) -> Reply:
        if job.status == "in_progress":
            self._finish(job, "cancelled", server)
        return Reply(job.body)

    def _finish(self, job: Job, status: str, server: FakeOpenAI | FakeEmbeddings) -> None:
        job.status = status
        job.answers = (
            {name: server.in_batch(request) for name, request in job.requests.items()} if status == "completed" else {}
        )
        if self.end:
            self.end(job)
        for name, reply in job.answers.items():
            server.count(reply)
            (job.output if reply.status == 200 else job.errors).append(row(name, reply))
        for key, lines in (("output_file_id", job.output), ("error_file_id", job.errors)):
            if lines:
                random.Random(len(lines)).shuffle(lines)
                name = f"{job.body['id']}-{key}"
                self.files[name] = "\n".join(lines).encode()
                job.body[key] = name


def broken(reply: Reply, content: str = '{"items": [{"type": "riddle"}]}') -> Reply:
    """The same reply with a text that does not validate."""
    return completion(content, usage=(reply.body["usage"]["prompt_tokens"], reply.body["usage"]["completion_tokens"]))
