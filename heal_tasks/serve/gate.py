"""Middleware before every request: token, limit of size, counting."""

import hmac
import time

from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heal_tasks.serve.metrics import Metrics
from heal_tasks.serve.protocol import MAX_BODY_BYTES, RefusedError

OPEN = "/healthz"
PATHS = {OPEN, "/metrics", "/v1/models", "/v1/embeddings", "/v1/search", "/v1/feedback"}
"""The paths that metrics name; others are ``other``."""


class Gate:
    """ASGI middleware; without a token everybody is let in."""

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
            if scope["path"] == OPEN or self._allowed(dict(scope["headers"]).get(b"authorization", b"")):
                await self._app(scope, limited, watched)
            else:
                refused = RefusedError(401, "send the token as `Authorization: Bearer TOKEN`", code="invalid_api_key")
                reply = JSONResponse(refused.body(), 401, headers={"www-authenticate": "Bearer"})
                await reply(scope, receive, watched)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._metrics.add_request(path, status, time.perf_counter() - started)

    def _allowed(self, given: bytes) -> bool:
        return self._credentials is None or hmac.compare_digest(given, self._credentials)
