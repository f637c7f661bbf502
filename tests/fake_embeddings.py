"""An embeddings server on loopback that counts what is paid for, and fails as a test wants."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.loopback import LoopbackServer

Vectors = Callable[[Sequence[str]], NDArray[np.float32]]
FAULTS = (
    "rate limit", "server error", "lost connection", "error in 200", "missing vector", "not a number", "cut off",
    "other lengths", "no numbers",
)  # fmt: skip


def planted(texts: Sequence[str], dims: int = 8) -> NDArray[np.float32]:
    """A unit vector for each text, always the same."""
    rows = [np.random.default_rng(list(text.encode())).normal(size=dims) for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


class FakeEmbeddings(LoopbackServer):
    """A context manager around the server.

    Args:
        vectors: the model.
        rule: gives the fault of a request, by its texts and the number of earlier requests with the same ones; a status
            and a body, a name out of FAULTS, or None.

    Attributes:
        paid: the number of times that each text was in a good reply.
        bodies: the requests.
    """

    def __init__(
        self,
        vectors: Vectors = planted,
        rule: Callable[[list[str], int], str | tuple[int, str] | None] = lambda texts, attempt: None,
    ) -> None:
        self.vectors, self.rule = vectors, rule
        self.paid, self.bodies, self._seen = Counter[str](), list[dict[str, Any]](), Counter[tuple[str, ...]]()
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
            return 429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0"}
        if fault == "server error":
            return 500, b'{"error": {"message": "worker crashed"}}', {}
        if fault == "lost connection":
            return None
        if fault == "error in 200":
            return 200, b'{"error": {"message": "overloaded", "code": 503}}', {}
        rows = self.vectors(texts)[:, : body.get("dimensions")].tolist()
        usage = {"prompt_tokens": sum(1 + len(text) // 4 for text in texts)}
        data: list[dict[str, Any]] = [{"index": place, "embedding": row} for place, row in enumerate(rows)]
        if fault == "missing vector":
            data.pop()
        elif fault == "not a number":
            data[0]["embedding"][0] = float("nan")
        elif fault == "other lengths":
            data[0]["embedding"].append(0.5)
        elif fault == "no numbers":
            data[0]["embedding"] = {"values": "none"}
        elif fault != "cut off":
            with self._lock:
                self.paid.update(texts)
            data.reverse()  # the index says whose a vector is
            if body["encoding_format"] == "base64":
                for item in data:
                    item["embedding"] = base64.b64encode(np.array(item["embedding"], "<f4").tobytes()).decode()
        text = json.dumps({"object": "list", "data": data, "model": body["model"], "usage": usage})
        return 200, (text[: len(text) // 2] if fault == "cut off" else text).encode(), {}

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
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler
