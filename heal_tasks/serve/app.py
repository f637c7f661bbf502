"""The service over HTTP: routes, and errors in the form of OpenAI's."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from heal_tasks.client.following import NothingLiveError
from heal_tasks.core.errors import HealError, InputError, RetryableError, SettingsError
from heal_tasks.core.settings import Settings
from heal_tasks.serve.gate import Gate, is_loopback
from heal_tasks.serve.protocol import EmbeddingsRequest, FeedbackRequest, RefusedError, SearchRequest
from heal_tasks.serve.service import Service
from heal_tasks.store.generations.search import NotSearchable

logger = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[HealError], int], ...] = (
    (NothingLiveError, 503), (NotSearchable, 503), (RetryableError, 503), (InputError, 400),
)  # fmt: skip


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until the process is told to end; SettingsError where others could call it without a token."""
    if settings.serve_token is None and not is_loopback(host):
        raise SettingsError(f"--host {host} can be reached by others: set HEAL_SERVE_TOKEN, or listen on 127.0.0.1")
    uvicorn.run(create_app(settings), host=host, port=port, log_config=None, access_log=False, server_header=False)


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application; it loads its encoders when it starts, and follows switches."""
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(title="HEAL", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Gate, token=settings.serve_token, metrics=service.metrics)
    app.add_exception_handler(Exception, answer_error)
    for kind in (HealError, RefusedError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_error)

    # Routes without async run on threads: they wait for the encoder's thread and for the database.
    @app.post("/v1/embeddings")
    def embeddings(asked: EmbeddingsRequest) -> Response:
        generation_id, body = service.embed(asked)
        return _of_generation(generation_id, body)

    @app.post("/v1/search")
    def search(asked: SearchRequest) -> Response:
        generation_id, body = service.search(asked)
        return _of_generation(generation_id, body)

    @app.post("/v1/feedback")
    def feedback(given: FeedbackRequest) -> Response:
        service.record_feedback(given)
        return JSONResponse({"object": "feedback", "good": given.good})

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": service.models()})

    @app.get("/healthz")
    async def healthz() -> Response:
        if settings.serve_token and not service.encoders.active_or_none():
            # Everybody may ask this, and the reason may name the database's host and user.
            raise RefusedError(503, "no generation is served yet; the log and all other requests say why")
        return _of_generation(service.encoders.active().generation_id, {"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        active = service.encoders.active_or_none()
        text = service.metrics.text(active.generation_id if active else None)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    return app


def _of_generation(generation_id: int, body: object) -> Response:
    return JSONResponse(body, headers={"x-heal-generation": str(generation_id)})


async def answer_error(request: Request, error: Exception) -> Response:
    """The reply to a request that failed."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            param, message = "", f"the body is no JSON ({first.get('ctx', {}).get('error', message)})"
        elif not param:
            message += "; send JSON, with content-type: application/json"
        refused = RefusedError(400, f"{param}: {message}" if param else message, param or None)
    elif isinstance(error, RefusedError):
        refused = error
    elif isinstance(error, HTTPException):
        refused = RefusedError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    elif isinstance(error, HealError):
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        if status == 500:
            logger.error("%s %s", request.url.path, error)
        refused = RefusedError(status, str(error))
    else:
        refused = RefusedError(500, "the service failed; its log says why")
    headers = {"retry-after": "2"} if refused.status == 503 else None
    return JSONResponse(refused.body(), refused.status, headers=headers)
