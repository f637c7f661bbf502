"""A chat-completions server on loopback whose replies a test chooses, because mocks would skip the SDK's own retries.

Without a rule it answers every request with queries, an entity map or an answer, made from the passage in the prompt.
A rule gets the request and returns a Reply, or None for that default. Requests without a passage are capability probes:
they are kept apart and have a rule of their own; by default the server does what their schema says.
"""

import json
import re
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from tests.fake_replies import Reply, completion, entity_map, error, queries, reading
from tests.loopback import LoopbackServer

if TYPE_CHECKING:
    from tests.fake_batches import FakeBatches

_PASSAGE = re.compile(r"^<passage (\w+)>\n(?:Title|Question): (.*?)\n\n(.*)\n</passage \1>$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """One request: its JSON body, its headers (names in lower case), how many came before with the same prompt.

    ``raw`` is the body as it came, ``in_flight`` how many requests were being answered when it came, itself included.
    """

    body: dict[str, Any]
    headers: dict[str, str]
    attempt: int
    raw: bytes = b""
    in_flight: int = 1

    @property
    def wants_map(self) -> bool:
        return "entity map" in self.body["messages"][0]["content"]

    @property
    def wants_answer(self) -> bool:
        return self.body["messages"][0]["content"].startswith("You answer a question")

    @property
    def title(self) -> str:
        """The line above the passage: its title, or the question to be answered from it."""
        match = _PASSAGE.search(_document(self.body))
        return match[2] if match else ""

    @property
    def passage(self) -> str:
        match = _PASSAGE.search(_document(self.body))
        return match[3] if match else ""


def answer(request: Request) -> Reply:
    """The default: a structured answer derived from the passage, as JSON."""
    if request.wants_map:
        return completion(json.dumps(entity_map(request.passage)), usage=(300, 90))
    if request.wants_answer:
        return completion(json.dumps(reading(request.title, request.passage)), usage=(400, 30))
    return completion(json.dumps({"items": queries(request.passage, request.title)}))


def obey(request: Request) -> Reply:
    """The default for a probe: what a server says that enforces a schema, and any JSON object without one."""
    form = request.body.get("response_format", {})
    value: dict[str, str] = {"sea": "blue"}
    if form.get("type") == "json_schema":
        value = {key: rule["enum"][0] for key, rule in form["json_schema"]["schema"]["properties"].items()}
    return completion(json.dumps(value), usage=(17, 5))


def _document(body: dict[str, Any]) -> str:
    found = body["messages"][1:2]
    return str(found[0]["content"]) if found else ""


class FakeOpenAI(LoopbackServer):
    """A context manager around the server.

    Args:
        rule: chooses replies; may be replaced while the server runs.
        probe_rule: the same for probes.
        batches: files and batches; without them there is no Batch API.
        port: 0 takes a free one.

    Attributes:
        requests: all but the probes.
        probes: the probes.
        batched: those that were run in a batch.
        input_tokens: of all replies that were sent whole.
        output_tokens: the same.
    """

    def __init__(
        self,
        rule: Callable[[Request], Reply | None] | None = None,
        probe_rule: Callable[[Request], Reply | None] | None = None,
        batches: "FakeBatches | None" = None,
        port: int = 0,
    ) -> None:
        self.rule, self.probe_rule, self.batches = rule, probe_rule, batches
        self.requests: list[Request] = []
        self.probes: list[Request] = []
        self.batched: list[Request] = []
        self._seen = Counter[str]()
        self.most_in_flight = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self._in_flight = 0
        super().__init__(self._handler(), port)

    def _reply(self, raw: bytes, headers: dict[str, str]) -> Reply:
        body = json.loads(raw)
        with self._lock:
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            prompt = json.dumps(body["messages"][:2])
            request = Request(body, headers, self._seen[prompt], raw, self._in_flight)
            self._seen[prompt] += 1
            (self.requests if _document(body) else self.probes).append(request)
        rule, default = (self.rule, answer) if _document(body) else (self.probe_rule, obey)
        reply = (rule(request) if rule else None) or default(request)
        time.sleep(reply.delay_s)
        return reply

    def in_batch(self, request: Request) -> Reply:
        """Run a request of a batch; what is delivered in the end is to be counted."""
        self.batched.append(request)
        return (self.rule(request) if self.rule else None) or answer(request)

    def _done(self, reply: Reply) -> None:
        with self._lock:
            self._in_flight -= 1
        self.count(reply)

    def count(self, reply: Reply) -> None:
        """Add a reply's tokens to what the caller owes."""
        usage = reply.body.get("usage") if isinstance(reply.body, dict) and reply.fault == "none" else None
        with self._lock:
            self.input_tokens += (usage or {}).get("prompt_tokens", 0)
            self.output_tokens += (usage or {}).get("completion_tokens", 0)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body are two packets; with Nagle's algorithm the second waits 40 ms for the client's delayed ACK.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"] or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                if self.path.startswith(("/v1/files", "/v1/batches")) and fake.batches:
                    self._send(fake.batches.handle(self.command, self.path, headers, raw, fake))
                    return
                if self.path != "/v1/chat/completions":
                    self._send(error(404, f"no such path {self.path}"))
                    return
                reply = fake._reply(raw, headers)
                # Counted before the last byte leaves: whoever has read the reply may look at the counts at once.
                fake._done(reply)
                self._send(reply)

            def _send(self, reply: Reply) -> None:
                data = reply.body if isinstance(reply.body, str | bytes) else json.dumps(reply.body)
                data = data.encode() if isinstance(data, str) else data
                self.close_connection = reply.fault != "none"
                if reply.fault == "hang":
                    self._gone(60)
                if reply.fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                if reply.fault in ("hang", "drop", "reset"):
                    return
                try:
                    if reply.fault == "slow_head":
                        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                        while not self._gone(0.02):
                            self.wfile.write(b"X-Filler: x\r\n")
                        return
                    self.send_response(reply.status)
                    kind = "text/html" if isinstance(reply.body, str) else "application/json"
                    for name, value in {"Content-Type": kind, **reply.headers}.items():
                        self.send_header(name, value)
                    if reply.fault != "endless":
                        self.send_header("Content-Length", str(10**6 if reply.fault == "drip" else len(data)))
                    self.end_headers()
                    while reply.fault == "endless":
                        self.wfile.write(data)
                    self.wfile.write(data[: len(data) // 2] if reply.fault == "cut" else data)
                    while reply.fault == "drip" and not self._gone(0.02):
                        self.wfile.write(b" ")
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def _gone(self, timeout_s: float) -> bool:
                return bool(select.select([self.connection], [], [], timeout_s)[0])

            def log_message(self, *args: object) -> None:
                del args

        return Handler
