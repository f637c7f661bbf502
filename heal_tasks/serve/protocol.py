"""Requests and replies of the service: OpenAI's protocol for embeddings, models and errors, and searches."""

import base64
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from heal_tasks.core.models import Role
from heal_tasks.core.text import storable
from heal_tasks.core.types import JsonObject

MAX_TEXTS = 2048
"""Texts per request, OpenAI's own limit, which its clients keep."""
MAX_CHARS = 1 << 15
"""Characters per text. Encoders cut texts off far below it."""
MAX_BODY_BYTES = 1 << 24
MAX_DEPTH = 32
"""Levels of a filter; metadata is rarely deeper than three."""
MAX_PRINCIPALS = 10_000
"""Groups of a person; directories allow a few thousand at most."""
ACTIVE = "heal-active"

Storable = Annotated[str, BeforeValidator(lambda value: storable(value) if isinstance(value, str) else value)]
"""A text that may have had NUL characters or half an emoji, which pydantic would refuse."""

_MODEL = re.compile(r"heal-(?:active|g(?P<number>\d{1,18}))(?::(?P<role>query|document))?")
_KINDS = {401: "authentication_error", 404: "not_found_error"}


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> JsonObject:
        """The reply, in the form of OpenAI's errors."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class ModelName(NamedTuple):
    """A parsed name of a model: ``heal-active`` or ``heal-g000007``, with ``:query`` or ``:document`` if wanted."""

    generation_id: int | None  # None: the active one
    role: Role | None

    @classmethod
    def parse(cls, name: str) -> "ModelName | None":
        """The parts of a name; None if it is none of ours."""
        found = _MODEL.fullmatch(name)
        if found is None:
            return None
        role: Role | None = "document" if found["role"] == "document" else "query" if found["role"] else None
        return cls(int(found["number"]) if found["number"] else None, role)


def model_name(generation_id: int) -> str:
    """The name of a generation as a model, which pins a client to it."""
    return f"heal-g{generation_id:06d}"


class EmbeddingsRequest(BaseModel):
    """``POST /v1/embeddings``; ``input_type`` is an addition of many servers, fields that are not ours are ignored."""

    model: str
    input: list[str]
    encoding_format: Literal["float", "base64"] | None = None  # null, as LiteLLM sends it, is float
    dimensions: int | None = None
    input_type: Role | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not texts:
            raise ValueError("give a text or a list of texts, at least one")
        if len(texts) > MAX_TEXTS:
            raise ValueError(f"{len(texts)} texts; a request has at most {MAX_TEXTS}")
        for number, text in enumerate(texts):
            if isinstance(text, int | list):
                raise ValueError(
                    "token ids are not taken, because they belong to another model's tokenizer: send texts "
                    "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
                )
            if not isinstance(text, str) or not text or len(text) > MAX_CHARS:
                raise ValueError(f"input {number} is not a text of 1 to {MAX_CHARS} characters")
        return [storable(text) for text in texts]

    @property
    def role(self) -> Role:
        """The role of the texts, from the field, else from the model's suffix; queries without either."""
        named = ModelName.parse(self.model)
        return self.input_type or (named.role if named else None) or "query"

    @model_validator(mode="after")
    def _one_role(self) -> "EmbeddingsRequest":
        named = ModelName.parse(self.model)
        if named and named.role and self.input_type and named.role != self.input_type:
            raise ValueError(f"model {self.model!r} and input_type {self.input_type!r} contradict each other")
        return self


class SearchRequest(BaseModel):
    """``POST /v1/search``: by text alone (``heal.find``) or with the encoder (``heal.hybrid_search``)."""

    model_config = ConfigDict(extra="forbid")

    question: Storable = Field(validation_alias=AliasChoices("question", "text"), min_length=1, max_length=MAX_CHARS)
    path: Literal["text", "encoder"] = "text"
    k: int = Field(10, ge=1, le=1000)
    topic: int | None = Field(None, ge=0, lt=1 << 63)
    filter: JsonObject | None = None
    language: str | None = Field(None, pattern=r"^\w{1,63}$")
    principals: list[str] | None = Field(None, max_length=MAX_PRINCIPALS)

    @field_validator("filter")
    @classmethod
    def _shallow(cls, value: JsonObject | None) -> JsonObject | None:
        level: list[Any] = [value]
        for _ in range(MAX_DEPTH + 1):
            level = [
                item
                for outer in level
                if isinstance(outer, dict | list)
                for item in (outer.values() if isinstance(outer, dict) else outer)
            ]
        if level:
            raise ValueError(f"the filter is nested deeper than {MAX_DEPTH} levels")
        return value


class FeedbackRequest(BaseModel):
    """``POST /v1/feedback``: whether a chunk that a search returned answers the question; null takes the vote back."""

    model_config = ConfigDict(extra="forbid")

    question: Storable = Field(min_length=1, max_length=2000)
    chunk_id: int = Field(ge=0, lt=1 << 63)
    good: bool | None
    user: Storable | None = Field(None, min_length=1, max_length=200)
    principals: list[str] | None = Field(None, max_length=MAX_PRINCIPALS)


def embeddings_reply(model: str, vectors: NDArray[np.float32], tokens: int, encoding: str | None) -> JsonObject:
    """The reply to an ``EmbeddingsRequest``, with unit vectors, float32, shape (n, d)."""
    rows: Sequence[object]
    if encoding == "base64":
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in vectors]
    else:
        rows = vectors.tolist()
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
