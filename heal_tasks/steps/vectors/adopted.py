"""Vectors of adopted tables: taken into a space instead of computed, after a comparison with its model."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from heal_tasks.core.errors import StepError
from heal_tasks.core.models import split_uri
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.sources.embedded_text import LLAMA_INDEX, embedded_text
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.vectors.encoders import SAME_MODEL, Float32Array, TextEncoder
from heal_tasks.store.adopted.adopted import AdoptedRepository
from heal_tasks.store.adopted.user_table import UserTable, reading_connection
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.chunks import LiveChunk
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

SAMPLE = 20
"""Rows that are compared. Their median decides: the texts of a few may have changed since they were embedded."""

LoadEncoder = Callable[[], TextEncoder]

PAGE = 20_000
"""Vectors in memory at a time: 120 MB at 1,536 dimensions."""


class Comparison(NamedTuple):
    """Cosines of the vectors in a table to those that a model gives the same rows."""

    rows: int
    lowest: float
    median: float

    @property
    def same(self) -> bool:
        """True if the model has made the vectors."""
        return self.median >= SAME_MODEL

    def text(self) -> str:
        """The comparison as a phrase."""
        return f"{self.rows} rows encoded again: lowest cosine {self.lowest:.4f}, median {self.median:.4f}"


def compare(table: UserTable, encoder: TextEncoder) -> Comparison:
    """Encode a sample of rows again and compare; StepError if there is no row, or the model has another dimension."""
    rows = table.sample(SAMPLE)
    if not rows:
        raise StepError(f"{table.adopted.source} has no row with a text and a usable vector")
    texts = [embedded_text(table.adopted.preset, text, metadata) for _, text, metadata, _ in rows]
    now = encoder.encode(texts, role="document")
    if now.shape[1] != table.adopted.dims:
        raise StepError(
            f"{table.adopted.model} gives {now.shape[1]} dimensions, the vectors of {table.adopted.source} have "
            f"{table.adopted.dims}; name the model that made them"
        )
    cosines = np.einsum("ij,ij->i", now, unit(np.stack([vector for *_, vector in rows])))
    return Comparison(len(rows), float(cosines.min()), float(np.median(cosines)))


def take_vectors(context: Context, space: Space, load: LoadEncoder) -> int:
    """Fill a space from the adopted tables of its model, this shard's chunks, and return the number of vectors.

    Raises:
        StepError: the vectors of a table are not, or no longer, those of the space's model.
    """
    adopted = AdoptedRepository(context.conn).list()
    if other := next(
        (item for item in adopted if item.model == split_uri(space.model_uri)[0] and item.dims != space.dims), None
    ):
        raise StepError(
            f"{other.source} has vectors of {other.dims} dimensions, and {space.model_uri} gives {space.dims} here; "
            f"set HEAL_DIMENSIONS={other.dims}"
        )
    tables = [item for item in adopted if item.is_of(space)]
    if not tables:
        if adopted and space.model_uri == context.settings.model_uri:
            context.log.warning(
                "HEAL_MODEL is %s, but %s has vectors of %s, so its texts are embedded anew",
                space.model_uri, adopted[0].source, adopted[0].model,
            )  # fmt: skip
        return 0
    with reading_connection(context.settings.require_database_url()) as conn:
        return sum(_take(context, space, UserTable(conn, item), load) for item in tables)


def _take(context: Context, space: Space, table: UserTable, load: LoadEncoder) -> int:
    item, repository, taken, after = table.adopted, SpaceRepository(context.conn), 0, -1
    while True:
        ids, vectors = table.vectors_for(space, context.shard, context.shards, after, PAGE)
        if not len(ids):
            return taken
        if after < 0:
            _check(context, space, table, load)
        taken += repository.write_chunks(space, ids, unit(vectors))
        after = int(ids[-1])
        context.progress(taken, taken, f"space {space.space_id}: vectors of {item.source}")


def _check(context: Context, space: Space, table: UserTable, load: LoadEncoder) -> None:
    """Compare the table's vectors with those taken before, or with the model where that has not been done."""
    item = table.adopted
    if cosines := table.cosines_to(space, SAMPLE):
        if float(np.median(cosines)) < SAME_MODEL:
            raise StepError(
                f"the vectors of {item.source} are not those of space {space.space_id} any more (median cosine "
                f"{np.median(cosines):.4f} for equal texts): its application has another model now. Set HEAL_MODEL to "
                f"it and run `python -m heal_tasks adopt` again"
            )
    elif not item.model_sha256:
        found = compare(table, load())
        if not found.same:
            raise StepError(
                f"{space.model_uri} has not made the vectors of {item.source} ({found.text()}); run `python -m "
                "heal_tasks adopt` again with the model that has, as --model"
            )
        AdoptedRepository(context.conn).note_check(item.source, space.model_sha256, found.text())


def asked_by_clients(conn: Connection) -> list[str]:
    """Sources of the adopted tables whose clients encode queries themselves, and search by vectors alone."""
    return [item.source for item in AdoptedRepository(conn).list() if item.own_queries]


def texts_to_embed(conn: Connection, chunks: Sequence[LiveChunk]) -> list[tuple[int, str]]:
    """Id and text to embed of chunks; of an adopted row the text that its application embeds."""
    texts = {chunk.chunk_id: embedding_text(chunk.title, chunk.text) for chunk in chunks}
    if sources := [item.source for item in AdoptedRepository(conn).list() if item.preset == LLAMA_INDEX]:
        rows = conn.execute(
            "SELECT c.chunk_id, c.text, d.metadata FROM heal.chunk c JOIN heal.document d USING (document_id) "
            "WHERE c.chunk_id = ANY(%s) AND d.source = ANY(%s)",
            ([*texts], sources),
        )
        texts |= {key: embedded_text(LLAMA_INDEX, text, metadata) for key, text, metadata in rows}
    return [*texts.items()]


def unit(vectors: Float32Array) -> Float32Array:
    """Vectors at unit length, float32, shape (n, d)."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit_vectors: Float32Array = (vectors / norms).astype(np.float32)
    return unit_vectors
