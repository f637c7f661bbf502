"""Maps between spaces, written when a generation of another space is published, before the switch to it."""

import numpy as np
from psycopg import Rollback

from heal_tasks.bridge.fit import LinearMap, fit_map, fit_orthogonal
from heal_tasks.steps.engine.runner import Context
from heal_tasks.store.generations.bridges import Bridge, BridgeRepository, Method
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

MIN_CHUNKS = 32
"""Chunks that two spaces have to share for a map between them."""


def write_bridges(context: Context, generation: Generation) -> str:
    """Write the maps that a switch from the live generation to an indexed one needs.

    From the space of the live generation to the new one and, for a rollback, back. And from each earlier space that has
    a map into the live one: fitted while its vectors are there, else composed of that map and the new one, if that map
    is good enough to be used.

    Returns:
        What becomes of query vectors of the live generation, as a phrase; empty if nothing is live, or the space stays
        the same.
    """
    active, spaces = GenerationRepository(context.conn).active(), SpaceRepository(context.conn)
    if active is None or active.space_id == generation.space_id:
        return ""
    bridges = BridgeRepository(context.conn)
    live, new = spaces.get(active.space_id), spaces.get(generation.space_id)
    earlier = [item for item in bridges.into(live.space_id) if item.from_space != new.space_id]
    _fit(context, new, live, active)
    step = _fit(context, live, new, generation)
    for item in earlier:
        old = spaces.get(item.from_space)
        if not _fit(context, old, new, generation) and step and item.in_use:
            first, second = LinearMap(*bridges.load(item, old)), LinearMap(*bridges.load(step, live))
            _write(context, old, generation, first.then(second), "composed", step.pairs)
    if step is None:
        return (
            f"query vectors of generation {active.generation_id} cannot be mapped: too few chunks have vectors of both "
            "models, or too few test questions"
        )
    note = f"mapped, query vectors of generation {active.generation_id} keep {step.share:.1%} of the recall"
    if not step.in_use:
        note += f", less than HEAL_BRIDGE_MIN_RECALL={step.min_share:g}: they are refused once it is retired"
    return note


def _fit(context: Context, old: Space, new: Space, generation: Generation) -> Bridge | None:
    """Fit and write the map from a space to that of a generation; None where both share too few vectors."""
    bridges = BridgeRepository(context.conn)
    chunks, questions = (bridges.pairs(old, new, entity) for entity in ("chunk", "question"))
    if len(chunks[0]) < MIN_CHUNKS:
        return None
    pairs = len(chunks[0]) + len(questions[0])
    # Queries are not chunks: fitted to questions as well a map keeps up to 8 points more (bench/RESULTS.md).
    texts = np.concatenate((chunks[0], questions[0])), np.concatenate((chunks[1], questions[1]))
    bridges.keep_probes(old)
    # Neither kind wins always, and the right answers alone show which: nearness to the new vectors prefers the ridge.
    kept = _write(context, old, generation, fit_map(*texts), "fitted", pairs)
    with context.conn.transaction() as trial:
        other = _write(context, old, generation, fit_orthogonal(*texts), "fitted", pairs)
        if other and kept and other.share > kept.share:
            return other
        raise Rollback(trial)
    return kept


def _write(
    context: Context, old: Space, generation: Generation, made: LinearMap, method: Method, pairs: int
) -> Bridge | None:
    settings = context.settings
    return BridgeRepository(context.conn).write(
        old, generation, made.weights, made.shift, method=method, pairs=pairs,
        min_questions=settings.gate_min_questions, min_share=settings.bridge_min_recall,
    )  # fmt: skip
