"""The vector spaces a run works with: the base model's, the live model's, the newly trained model's.

They are made on first use and found again by run, so mapped tasks and retries agree on them:

- *baseline*: the base model's vectors, one generation per base model, kept and topped up over runs;
- *reference*: the live model (the base model where nothing is live yet) over today's documents;
- *trained*: this run's model over today's documents; absent where training was skipped.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import StepError
from heal_tasks.core.models import resolve_model
from heal_tasks.steps.engine.runner import Context
from heal_tasks.store.documents.corpus import ChunkTable
from heal_tasks.store.generations.generation import Generation, Kind
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.vectors import Served, VectorRepository

Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]


def baseline(context: Context) -> Generation:
    """The base model's generation, made on first use."""
    model = context.settings.model
    sha256, dims = _identity(resolve_model(model))
    with _making(context) as generations:
        return generations.baseline(sha256) or generations.create(
            kind="baseline", run_id=context.run_id, model_uri=model, model_sha256=sha256, dims=dims
        )


def candidates(context: Context) -> list[Generation]:
    """The generations this run may promote: reference, and trained where a model was trained.

    Returns:
        One or two generations, the reference first.
    """
    with _making(context) as generations:
        made = [_find(context, generations, "reference") or _make_reference(context, generations)]
        uri = context.manifest.refs.get("model_uri")
        if uri:
            made.append(
                _find(context, generations, "trained")
                or _make(context, generations, "trained", str(uri), *_identity(str(context.artifacts.local(str(uri)))))
            )
    return made


def _find(context: Context, generations: GenerationRepository, kind: Kind) -> Generation | None:
    for found in generations.list("building", "ready", "active", "failed"):
        if found.kind == kind and found.run_id == context.run_id:
            return found
    return None


def _make_reference(context: Context, generations: GenerationRepository) -> Generation:
    like = generations.active() or baseline(context)
    return _make(context, generations, "reference", like.model_uri, like.model_sha256, like.dims)


def _make(
    context: Context, generations: GenerationRepository, kind: Kind, model_uri: str, sha256: str, dims: int
) -> Generation:
    made = generations.create(
        kind=kind, run_id=context.run_id, model_uri=model_uri, model_sha256=sha256, dims=dims,
        topic_run_id=context.manifest.number("topic_run_id"), ef_search=context.settings.ef_search,
    )  # fmt: skip
    VectorRepository(context.conn).copy_from_same_model(made)
    return made


def _identity(path: str) -> tuple[str, int]:
    from heal_tasks.training.encoder import model_identity  # torch: 5 s that most callers never need

    return model_identity(path)


@contextmanager
def _making(context: Context) -> Iterator[GenerationRepository]:
    """One maker at a time: mapped tasks ask for the same generation at the same moment."""
    with context.conn.transaction():
        context.conn.execute("SELECT pg_advisory_xact_lock(hashtext('heal.make_generation'))")
        yield GenerationRepository(context.conn)


def in_order(wanted: Int64Array, ids: Int64Array, vectors: Float32Array) -> Float32Array:
    """Rows of ``vectors`` in the order of ``wanted``.

    Args:
        wanted: int64, shape (n,).
        ids: int64, shape (m,), ids of the rows of ``vectors``.
        vectors: float32, shape (m, d).

    Returns:
        float32, shape (n, d).

    Raises:
        StepError: an id has no vector.
    """
    order = np.argsort(ids)
    found = np.searchsorted(ids, wanted, sorter=order)
    rows = order[np.minimum(found, max(len(ids) - 1, 0))] if len(ids) else np.zeros(len(wanted), dtype=np.int64)
    missing = np.ones(len(wanted), dtype=bool) if not len(ids) else ids[rows] != wanted
    if missing.any():
        raise StepError(
            f"{int(missing.sum())} of {len(wanted)} vectors are missing, first id {int(wanted[missing][0])}; "
            "run the embedding step before this one again"
        )
    return vectors[rows]


def overlay(chunk_ids: Int64Array, base: Float32Array, live: Served) -> Float32Array:
    """What a generation serves today over today's documents: its served rows, and base rows for new chunks.

    Args:
        chunk_ids: int64, shape (n,), ascending: all live chunks, or some.
        base: float32, shape (n, d), the generation's base vectors in that order.
        live: the generation's served rows.

    Returns:
        float32, shape (n, d).
    """
    vectors = base.copy()
    _, here, there = np.intersect1d(chunk_ids, live.chunk_ids, assume_unique=True, return_indices=True)
    vectors[here] = live.vectors[there]
    return vectors


def served(chunks: ChunkTable, vectors: Float32Array) -> Served:
    """Rows of a served table: every live chunk with its document, leaf and vector."""
    return Served(chunks.chunk_ids, chunks.document_ids, chunks.leaves, vectors)
