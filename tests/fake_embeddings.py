"""An embeddings server on loopback that counts what is paid for, and fails as a test wants."""

import base64
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.loopback import LoopbackServer

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

    Attributes:
        paid: the number of times that each text was in a good reply.
        lost: the same for replies that the server computed and that did not arrive.
        useless: the same for replies that arrived and cannot be used.
        bodies: the requests.
    """

    def __init__(
        self,
        vectors: Vectors = planted,
        rule: Callable[[list[str], int], str | tuple[int, str] | None] = lambda texts, attempt: None,
        slow_s: float = 0.0,
    ) -> None:
        self.vectors, self.rule, self.slow_s = vectors, rule, slow_s
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

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                answer = server.reply(self.rfile.read(int(self.headers["Content-Length"])))
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

            def log_message(self, *args: object) -> None:
                pass

        return Handler
