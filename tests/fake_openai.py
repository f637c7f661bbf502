"""A chat-completions server on loopback whose replies a test chooses, because mocks would skip the SDK's own retries.

Without a rule it answers every request with queries made from the passage in the prompt. A rule gets the request
and returns a Reply, or None for that default.
"""

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_PASSAGE = re.compile(r"^<passage (\w+)>\nTitle: (.*?)\n\n(.*)\n</passage \1>$", re.DOTALL | re.MULTILINE)
_SENTENCE = re.compile(r"[^.!?]+[.!?]?")


@dataclass(frozen=True)
class Request:
    """One request: its JSON body, its headers (names in lower case), how many came before for the same passage."""

    body: dict[str, Any]
    headers: dict[str, str]
    attempt: int

    @property
    def title(self) -> str:
        match = _PASSAGE.search(self.body["messages"][1]["content"])
        return match[2] if match else ""

    @property
    def passage(self) -> str:
        match = _PASSAGE.search(self.body["messages"][1]["content"])
        return match[3] if match else ""


@dataclass(frozen=True)
class Reply:
    """What the server sends: an HTTP status, a body (text is sent as it is), headers, after a delay."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


def completion(
    content: str | None,
    *,
    finish_reason: str = "stop",
    refusal: str | None = None,
    usage: tuple[int, int] | None = (100, 20),
    delay_s: float = 0.0,
) -> Reply:
    """A chat completion with one choice."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
            }
        ],
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(body, delay_s=delay_s)


def error(status: int, message: str, *, code: str | None = None, **headers: str) -> Reply:
    """An error in OpenAI's form; ``retry_after_ms="1"`` becomes the header ``retry-after-ms``."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message, "type": "error", "code": code, "param": None}}, status, sent)


def queries(passage: str, title: str = "") -> list[dict[str, str]]:
    """Usable items made from a passage: one of each type, with its first sentences as evidence."""
    found = [s.strip() for s in _SENTENCE.findall(" ".join(passage.split())) if len(s.split()) >= 4] or [passage]
    items = []
    for number, kind in enumerate(("question", "keyword", "claim")):
        evidence = found[number % len(found)]
        salient = sorted(dict.fromkeys(re.findall(r"[\w-]{4,}", evidence)), key=lambda word: (-len(word), word))[:5]
        text = {
            "question": f"What is known about {' and '.join(salient[:3])} in practice?",
            "keyword": " ".join(salient),
            "claim": f"It has been reported that {' '.join(salient)} belong together.",
        }[kind]
        items.append({"type": kind, "query": text, "answer": evidence, "evidence_quote": evidence})
    return items


def answer(request: Request) -> Reply:
    """The default: a structured answer derived from the passage, as JSON."""
    return completion(json.dumps({"items": queries(request.passage, request.title)}))


class FakeOpenAI:
    """A context manager around the server.

    Args:
        rule: chooses replies; may be replaced while the server runs.
    """

    def __init__(self, rule: Callable[[Request], Reply | None] | None = None) -> None:
        self.rule = rule
        self.requests: list[Request] = []
        self.most_in_flight = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self._in_flight = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _reply(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            passage = body["messages"][1]["content"]
            attempt = sum(other.body["messages"][1]["content"] == passage for other in self.requests)
            request = Request(body, headers, attempt)
            self.requests.append(request)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        reply = (self.rule(request) if self.rule else None) or answer(request)
        time.sleep(reply.delay_s)
        with self._lock:
            self._in_flight -= 1
            usage = reply.body.get("usage") if isinstance(reply.body, dict) and reply.status == 200 else None
            self.input_tokens += (usage or {}).get("prompt_tokens", 0)
            self.output_tokens += (usage or {}).get("completion_tokens", 0)
        return reply

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path != "/v1/chat/completions":
                    reply = error(404, f"no such path {self.path}")
                else:
                    reply = fake._reply(body, {name.lower(): value for name, value in self.headers.items()})
                data = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
                try:
                    self.send_response(reply.status)
                    kind = "text/html" if isinstance(reply.body, str) else "application/json"
                    for name, value in {"Content-Type": kind, **reply.headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data.encode())))
                    self.end_headers()
                    self.wfile.write(data.encode())
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                del args

        return Handler
