"""Middleware before every request: token or name of the host, limit of size, counting."""

import hmac
import ipaddress
import re
import time
from collections.abc import Mapping

from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heal_tasks.serve.metrics import Metrics
from heal_tasks.serve.protocol import MAX_BODY_BYTES, RefusedError

OPEN = "/healthz"
PATHS = {OPEN, "/metrics", "/v1/models", "/v1/embeddings", "/v1/search", "/v1/feedback"}
"""The paths that metrics name; others are ``other``."""


def is_loopback(host: str) -> bool:
    """True if only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Gate:
    """ASGI middleware; without a token it lets everybody in who calls this machine by its address or ``localhost``.

    Else a web page in a browser on this machine could reach the service by a name of its own that leads here.
    """

    def __init__(self, app: ASGIApp, token: SecretStr | None, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._credentials = f"Bearer {token.get_secret_value()}".encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with 401 or 413, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, received = time.perf_counter(), 500, 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, f"the request is longer than {MAX_BODY_BYTES} bytes; send fewer texts at once")
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if refused := self._refusal(scope["path"], dict(scope["headers"])):
                headers = {"www-authenticate": "Bearer"} if refused.status == 401 else None
                await JSONResponse(refused.body(), refused.status, headers=headers)(scope, receive, watched)
            else:
                await self._app(scope, limited, watched)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._metrics.add_request(path, status, time.perf_counter() - started)

    def _refusal(self, path: str, headers: Mapping[bytes, bytes]) -> RefusedError | None:
        if self._credentials is None:
            host = re.sub(r":\d+$", "", headers.get(b"host", b"").decode("latin-1")).strip("[]").lower()
            told = "without a token only 127.0.0.1 and localhost are answered for; for other names set HEAL_SERVE_TOKEN"
            return None if is_loopback(host) else RefusedError(400, told)
        if path == OPEN or hmac.compare_digest(headers.get(b"authorization", b""), self._credentials):
            return None
        return RefusedError(401, "send the token as `Authorization: Bearer TOKEN`", code="invalid_api_key")
