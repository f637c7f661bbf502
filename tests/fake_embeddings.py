"""An embeddings server on loopback that counts what is paid for, and fails as a test wants."""

import base64
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tests.fake_openai import Request
from tests.fake_replies import Reply
from tests.loopback import LoopbackServer

if TYPE_CHECKING:
    from tests.fake_batches import FakeBatches

Vectors = Callable[[Sequence[str]], NDArray[np.float32]]
LOST = ("lost connection", "lost in the body", "cut off", "nothing", "slow")
"""Faults by which a reply that the model has computed does not arrive: no client can see what it cost."""
USELESS = ("missing vector", "no vectors", "wrong place", "not a number", "other lengths", "no numbers")
"""Faults of a reply that arrives with its tokens."""
REFUSED = ("rate limit", "server error", "unavailable", "error in 200")
"""Faults that come before anything is computed."""
FAULTS = tuple(fault for fault in (*REFUSED, *LOST, *USELESS) if fault != "slow")


def planted(texts: Sequence[str], dims: int = 8) -> NDArray[np.float32]:
    """A unit vector for each text, always the same."""
    rows = [np.random.default_rng(list(text.encode())).normal(size=dims) for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


def tokens(text: str) -> int:
    """The number of tokens that the server counts for a text."""
    return 1 + len(text) // 4


class FakeEmbeddings(LoopbackServer):
    """A context manager around the server.

    Args:
        vectors: the model.
        rule: gives the fault of a request, by its texts and the number of earlier requests with the same ones; a status
            and a body, the name of a fault, "numbers" for a good reply that is not in base64, or None.
        slow_s: how long the reply of the fault "slow" takes, in seconds.
        batches: files and batches; without them there is no Batch API.

    Attributes:
        paid: the number of times that each text was in a good reply.
        lost: the same for replies that the server computed and that did not arrive.
        useless: the same for replies that arrived and cannot be used.
        bodies: the requests outside batches.
    """

    def __init__(
        self,
        vectors: Vectors = planted,
        rule: Callable[[list[str], int], str | tuple[int, str] | None] = lambda texts, attempt: None,
        slow_s: float = 0.0,
        batches: "FakeBatches | None" = None,
    ) -> None:
        self.vectors, self.rule, self.slow_s, self.batches = vectors, rule, slow_s, batches
        self.useful: Callable[[Reply], bool] = lambda reply: True  # of replies in batches, which a test may spoil
        self._batched = dict[int, list[str]]()  # texts by reply
        self.paid, self.lost, self.useless = Counter[str](), Counter[str](), Counter[str]()
        self.bodies, self._seen = list[dict[str, Any]](), Counter[tuple[str, ...]]()
        super().__init__(self._handler())

    def reply(self, raw: bytes) -> tuple[int, bytes, dict[str, str]] | None:
        """Status, body and headers; None to hang up."""
        body = json.loads(raw)
        texts = body["input"]
        with self._lock:
            self.bodies.append(body)
            fault = self.rule(texts, self._seen[tuple(texts)])
            self._seen[tuple(texts)] += 1
        if isinstance(fault, tuple):
            return fault[0], fault[1].encode(), {}
        if fault == "rate limit":
            return 429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.01"}
        if fault == "server error":
            return 500, b'{"error": {"message": "worker crashed"}}', {}
        if fault == "unavailable":
            return 503, b"starting", {"Retry-After": "0.01"}
        if fault == "error in 200":
            return 200, b'{"error": {"message": "overloaded", "code": 503}}', {}
        with self._lock:
            (self.lost if fault in LOST else self.useless if fault in USELESS else self.paid).update(texts)
        if fault == "lost connection":
            return None
        if fault == "nothing":
            return 200, b"", {}
        if fault == "slow":
            time.sleep(self.slow_s)
        rows = self.vectors(texts)[:, : body.get("dimensions")].tolist()
        data: list[dict[str, Any]] = [{"index": place, "embedding": row} for place, row in enumerate(rows)]
        data.reverse()  # the index says whose a vector is
        if body["encoding_format"] == "base64" and fault != "numbers":
            for item in data:
                item["embedding"] = base64.b64encode(np.array(item["embedding"], "<f4").tobytes()).decode()
        if fault == "missing vector":
            data.pop()
        elif fault == "no vectors":
            data.clear()
        elif fault == "wrong place":
            data[0]["index"] = len(data)
        elif fault == "not a number":
            data[0]["embedding"] = [float("nan")] * len(rows[0])
        elif fault == "other lengths":
            data[0]["embedding"] = [*rows[-1], 0.5]
        elif fault == "no numbers":
            data[0]["embedding"] = {"values": "none"}
        usage = {"prompt_tokens": sum(map(tokens, texts))}
        text = json.dumps({"object": "list", "data": data, "model": body["model"], "usage": usage}).encode()
        half = text[: len(text) // 2]
        headers = {"Content-Length": str(len(text))} if fault == "lost in the body" else {}
        return 200, half if fault in ("cut off", "lost in the body") else text, headers

    def in_batch(self, request: Request) -> Reply:
        """Run a request of a batch; what is delivered in the end is to be counted."""
        texts = request.body["input"]
        data = [
            {"index": 0, "embedding": row} for row in self.vectors(texts)[:, : request.body.get("dimensions")].tolist()
        ]
        reply = Reply({"object": "list", "data": data, "usage": {"prompt_tokens": sum(map(tokens, texts))}})
        self._batched[id(reply)] = texts
        return reply

    def count(self, reply: Reply) -> None:
        """Count the text of a reply of a batch."""
        if reply.status == 200:
            (self.paid if self.useful(reply) else self.useless).update(self._batched[id(reply)])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def _answer(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"] or 0))
                answer = server.reply(raw) if self.path == "/v1/embeddings" else self._of_batches(raw)
                if answer is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                status, body, headers = answer
                self.send_response(status)
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the client has gone
                    self.wfile.write(body)
                if len(body) < int(headers.get("Content-Length", 0)):
                    self.close_connection = True

            def _of_batches(self, raw: bytes) -> tuple[int, bytes, dict[str, str]] | None:
                if server.batches is None:
                    return 404, b'{"error": {"message": "no such path"}}', {}
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = server.batches.handle(self.command, self.path, headers, raw, server)
                body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
                return None if reply.fault == "drop" else (reply.status, body.encode(), reply.headers)

            def log_message(self, *args: object) -> None:
                pass

        return Handler
