"""The spaces of a run, of the base, the live and the trained models. One per encoder, found by its files."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import StepError
from heal_tasks.core.models import api_model, api_sha256, resolve_model, split_uri
from heal_tasks.core.setting_groups import Objective
from heal_tasks.steps.engine.runner import Context
from heal_tasks.store.documents.corpus import ChunkTable
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.served import Served
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]

BASE_MODEL, LIVE_MODEL = "base model", "live model"


def model_ref(objective: Objective) -> str:
    """The ref of a manifest that has the URI of the model trained for an objective; empty where none was trained."""
    return f"{objective}_model_uri"


def sha256_ref(objective: Objective) -> str:
    """The ref of a manifest that has the hash of that model's files; empty or missing where nobody has taken it."""
    return f"{objective}_model_sha256"


def trained_model(objective: Objective) -> str:
    """The name of the model trained for an objective."""
    return f"{objective} model"


def base_space(context: Context) -> Space:
    """The base model's space, made on first use."""
    settings, options = context.settings, context.settings.model_options
    if not api_model(settings.model):
        return _space_of(context, settings.model_uri, resolve_model(settings.model))

    def measure() -> int:
        from heal_tasks.steps.vectors.encoders import api_encoder  # openai: a second

        return int(api_encoder(settings, settings.model_uri).encode(["length"]).shape[1])

    return _ensure(context, settings.model_uri, api_sha256(settings.model, options), measure)


def _trained_space(context: Context, objective: Objective) -> Space | None:
    """The space of the model that this run trained for an objective, made on first use; None where it trained none."""
    uri = str(context.manifest.refs.get(model_ref(objective)) or "")
    if not uri:
        return None
    spaces = SpaceRepository(context.conn)
    if known := spaces.find_by_uri(uri):  # an artifact never changes, so its files need not be hashed again
        return spaces.ensure(uri, known.model_sha256, known.dims)
    return _space_of(
        context, uri, str(context.artifacts.local(uri)), str(context.manifest.refs.get(sha256_ref(objective)) or "")
    )


def live_generation(context: Context) -> Generation:
    """The generation that is served; StepError where there is none."""
    active = GenerationRepository(context.conn).active()
    if active is None:
        raise StepError("no generation is active, so there is nothing to nudge; take the realign route")
    return active


def candidate_spaces(context: Context) -> dict[str, Space]:
    """The spaces that this run may publish, each once: of the base model, the live model, the trained models."""
    found, active = {BASE_MODEL: base_space(context)}, GenerationRepository(context.conn).active()
    live = SpaceRepository(context.conn).get(active.space_id) if active else None
    trained = {trained_model(name): _trained_space(context, name) for name in context.settings.objectives}
    for name, space in {LIVE_MODEL: live, **trained}.items():
        if space and all(space.space_id != other.space_id for other in found.values()):
            found[name] = space
    return found


def _space_of(context: Context, model_uri: str, path: str, expected: str = "") -> Space:
    from heal_tasks.training.encoder import load_encoder, model_sha256  # torch: 5 s that most callers never need

    options = split_uri(model_uri)[1]

    def measure() -> int:
        return int(load_encoder(path, device="cpu", options=options).get_embedding_dimension())

    sha256 = model_sha256(path)
    if expected and sha256 != expected:
        raise StepError(
            f"the files of the model in {path} have been changed since it was trained (sha256 {sha256[:12]}, recorded "
            f"is {expected[:12]}); delete that folder, and run step train again"
        )
    return _ensure(context, model_uri, options.identity(sha256), measure)


def _ensure(context: Context, model_uri: str, sha256: str, measure: Callable[[], int]) -> Space:
    """The space of an encoder; only a first use has to measure the length of its vectors."""
    spaces = SpaceRepository(context.conn)
    known = next((space.dims for space in spaces.list() if space.model_sha256 == sha256), 0)
    return spaces.ensure(model_uri, sha256, known or measure())


def in_order(wanted: Int64Array, ids: Int64Array, vectors: Float32Array) -> Float32Array:
    """Rows of ``vectors``, shape (m, d), which have ``ids``, in the order of ``wanted``, shape (n,)."""
    if np.array_equal(wanted, ids):
        return vectors  # not a copy, which could take gigabytes
    missing = wanted[~np.isin(wanted, ids)]
    if len(missing):
        raise StepError(
            f"{len(missing)} of {len(wanted)} vectors are missing, first id {missing[0]}: their texts came after the "
            "embedding step of this run; start a new run"
        )
    order = np.argsort(ids)
    return vectors[order[np.searchsorted(ids, wanted, sorter=order)]]


def overlay(chunk_ids: Int64Array, base: Float32Array, live: Served) -> Float32Array:
    """Put served vectors over the base vectors of some chunks, shape (n, d), in place, and return these.

    ``chunk_ids``, shape (n,), ascend. Chunks that are not served yet keep their base vectors.
    """
    _, here, there = np.intersect1d(chunk_ids, live.chunk_ids, assume_unique=True, return_indices=True)
    base[here] = live.vectors[there]
    return base


def served(chunks: ChunkTable, vectors: Float32Array) -> Served:
    """Rows of a served table: every live chunk with its document, leaf and vector."""
    return Served(chunks.chunk_ids, chunks.document_ids, chunks.leaves, vectors)
