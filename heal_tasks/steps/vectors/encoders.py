"""The encoder of a space: a model in files, or one behind an API, whose calls are booked."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.core.errors import StepError
from heal_tasks.core.models import Role, api_model, split_uri
from heal_tasks.core.settings import Settings
from heal_tasks.endpoint.calls import Call
from heal_tasks.endpoint.embeddings import EmbeddingEndpoint
from heal_tasks.endpoint.endpoint import EMBEDDINGS, EndpointConfig
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.store.db import Connection
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

if TYPE_CHECKING:
    from heal_tasks.training.encoder import Dtype

Float32Array = NDArray[np.float32]
Book = Callable[[Sequence[Call]], None]

SAME_MODEL = 0.99
"""Least cosine of two vectors of a text by one model: an API's vary in the fourth digit."""

RECENT = 4096
"""Questions whose vectors are kept: 6 MB at 384 dimensions."""


class TextEncoder(Protocol):
    """Turns texts into unit vectors."""

    def encode(self, texts: Sequence[str], *, role: Role = "document") -> Float32Array:
        """Unit vectors of texts, float32, shape (n, d)."""


class ApiEncoder:
    """A model behind an API; ``book`` is given every call, also where an error follows."""

    def __init__(self, endpoint: EmbeddingEndpoint, model_uri: str, book: Book | None = None) -> None:
        self._endpoint, self._book = endpoint, book
        self._model, self._options = split_uri(model_uri)
        self._recent: dict[str, Float32Array] = {}  # of questions, oldest first

    def encode(self, texts: Sequence[str], *, role: Role = "document") -> Float32Array:
        """Unit vectors of texts, float32, shape (n, d); each distinct text is sent once, and no recent question again.

        Raises:
            StepError: the endpoint refuses a text.
            SettingsError, RetryableError: see ``EmbeddingEndpoint.embed``.
        """
        found = {text: self._recent[text] for text in texts if text in self._recent} if role == "query" else {}
        distinct = [text for text in dict.fromkeys(texts) if text not in found]
        refused, complaint = list[str](), ""
        prompt = self._options.prompt(role) or ""
        for part in self._endpoint.embed([prompt + text for text in distinct]):
            found.update((distinct[row], vector) for row, vector in zip(part.rows, part.vectors, strict=True))
            if part.refused:
                refused += [distinct[row] for row in part.refused]
                complaint = [call.raw_reply for call in part.calls if call.status != "ok"][-1][:300]
            if self._book:
                self._book(part.calls)
        if refused:
            raise StepError(
                f"{self._model} gives no vector for {len(refused)} texts, the first is {refused[0][:80]!r}: "
                f"{complaint!r}; heal.llm_call has its replies. Correct or remove these documents, or choose another "
                "HEAL_MODEL"
            )
        if role == "query":
            self._recent.update((text, found[text]) for text in distinct)
            for text in list(self._recent)[:-RECENT]:
                del self._recent[text]
        return np.stack([found[text] for text in texts])


def api_encoder(settings: Settings, model_uri: str, length: int = 0, book: Book | None = None) -> ApiEncoder:
    """The encoder of a model behind the embeddings endpoint of the settings, with the options in its URI.

    ``length`` as in ``EmbeddingEndpoint``.
    """
    name, options = api_model(model_uri), split_uri(model_uri)[1]
    config = EndpointConfig(settings.embed_url, settings.embed_key, name, settings.llm_timeout_s, wording=EMBEDDINGS)
    endpoint = EmbeddingEndpoint(
        config, concurrency=settings.llm_concurrency, dimensions=options.dimensions, length=length
    )
    return ApiEncoder(endpoint, model_uri, book)


def api_prompt(space: Space, role: Role) -> str:
    """The text that is sent to an API before every text of a role."""
    return split_uri(space.model_uri)[1].prompt(role) or ""


def open_encoder(
    settings: Settings,
    artifacts: ArtifactStore,
    model_uri: str,
    sha256: str,
    *,
    threads: int | None = None,
    dtype: "Dtype" = "float32",
    length: int = 0,
    book: Book | None = None,
) -> TextEncoder:
    """The encoder of a space with this model; see ``Encoder``, ``ApiEncoder`` and ``EmbeddingEndpoint``."""
    if api_model(model_uri):
        return api_encoder(settings, model_uri, length, book)
    from heal_tasks.training.encoder import Encoder  # torch: 5 s that a model behind an API does not need

    path, options = artifacts.model_path(model_uri), split_uri(model_uri)[1]
    return Encoder(path, device=settings.device, threads=threads, dtype=dtype, sha256=sha256, options=options)


def check_unchanged(conn: Connection, space: Space, encoder: TextEncoder) -> None:
    """Compare a stored vector of a chunk or question with the one that a model behind an API gives its text now.

    Raises:
        StepError: they differ, so that new vectors must not be mixed with those in the space.
    """
    spaces = SpaceRepository(conn)
    if stored := spaces.any_chunk(space):
        chunk, vector = stored
        now = encoder.encode([embedding_text(chunk.title, chunk.text)])[0]
    elif asked := spaces.any_question(space):
        question, vector = asked
        now = encoder.encode([question], role="query")[0]
    else:
        return
    if float(now @ vector / np.linalg.norm(vector)) < SAME_MODEL:
        raise StepError(
            f"{space.model_uri} gives other vectors than when space {space.space_id} was made: its endpoint has "
            "another model under this name now. Put the old one back, or give the new one a name of its own"
        )
