"""The fixed held-out questions by which the short nudge path judges a generation without a scan."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.metrics import NDCG, TOP_K
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.bootstrap import Interval, paired_difference
from heal_tasks.evaluation.ranking import ranking_metrics, top_k
from heal_tasks.nudge.probe import KEPT, Nearest, follow
from heal_tasks.steps.quality.scoring import (
    QUESTION_SETS,
    Float32Array,
    Int64Array,
    Scores,
    held_out,
)
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState, Probes

DISPLACEMENT = "displacement"
"""Name, among a generation's metrics, of the angle that its rows have moved; see ``RouteFacts``."""
PROBES = 1000
"""Most questions per set: the standard error of a difference in nDCG@10 is then below .01."""


def restart_drift(conn: Connection, generation: Generation) -> None:
    """Count mean angle and loss of the live generation from now on: a realignment found nothing better."""
    state = NudgeState(conn, generation)
    probes = state.probes(KEPT)
    state.write_probes(replace(probes, at_start=_values(probes)[NDCG]))
    GenerationRepository(conn).set_fields(generation.generation_id, metrics={**generation.metrics, DISPLACEMENT: 0.0})


def choose_probes(questions: QuestionTable, asked: Float32Array, chunks: ChunkTable, served: Float32Array) -> Probes:
    """Choose probes for a generation and rank everything that it serves for them.

    Ids of questions are hashes, so the first ones of a set are a random choice. ``asked``, shape (q, d), and
    ``served``, shape (n, d), are the vectors of all questions and of all chunks.
    """
    chosen = [
        (row, name, positives)
        for name, key in held_out(questions, chunks).items()
        for row, positives in zip(key.rows[:PROBES], key.positives[:PROBES], strict=True)
    ]
    chosen.sort(key=lambda item: item[0])  # rows are in the order of the question ids
    rows, count = np.array([row for row, _, _ in chosen], dtype=np.int64), len(chosen)
    probes = Probes(
        questions.question_ids[rows], np.array([name for _, name, _ in chosen], dtype=np.str_),
        questions.document_ids[rows], [chunks.chunk_ids[positives] for _, _, positives in chosen], asked[rows],
        np.empty((count, KEPT), dtype=np.int64), np.empty((count, KEPT), dtype=np.float32),
        np.empty(count, dtype=np.float32), np.empty(count),
    )  # fmt: skip
    rank_anew(probes, np.arange(count), chunks.chunk_ids, served)
    return replace(probes, at_start=_values(probes)[NDCG])


def take(probes: Probes, chosen: Int64Array) -> Probes:
    """Some of the probes, by position."""
    return Probes(
        probes.question_ids[chosen], probes.question_sets[chosen], probes.documents[chosen],
        [probes.positives[place] for place in chosen], probes.vectors[chosen],
        probes.chunk_ids[chosen], probes.scores[chosen], probes.floor[chosen], probes.at_start[chosen],
    )  # fmt: skip


def followed(probes: Probes, touched: Int64Array, ids: Int64Array, vectors: Float32Array) -> tuple[Probes, Int64Array]:
    """The probes after some chunks came, went or changed, and the positions of those that have to be ranked anew.

    ``touched``, shape (t,), are all those chunks; ``ids``, shape (m,), and ``vectors``, (m, d), are served now.
    """
    kept = Nearest(probes.chunk_ids, probes.scores, probes.floor)
    now, short = follow(kept, probes.vectors, touched, ids, vectors, places=TOP_K)
    return replace(probes, chunk_ids=now.ids, scores=now.scores, floor=now.floor), np.flatnonzero(short)


def changed_places(before: Probes, after: Probes) -> Int64Array:
    """Positions of the probes whose nearest chunks are not what they were."""
    same = (before.chunk_ids == after.chunk_ids) & (before.scores == after.scores)
    return np.flatnonzero(~same.all(axis=1) | (before.floor != after.floor))


def rank_anew(probes: Probes, places: Int64Array, chunk_ids: Int64Array, served: Float32Array) -> None:
    """Rank all that is served, int64 ids, shape (n,), and float32, shape (n, d), for the probes at ``places``."""
    ranked, scores = top_k(probes.vectors[places], served, probes.chunk_ids.shape[1])
    nearest = Nearest.of(np.where(ranked >= 0, chunk_ids[ranked], -1), scores)
    probes.chunk_ids[places], probes.scores[places], probes.floor[places] = nearest.ids, nearest.scores, nearest.floor


def probe_scores(probes: Probes, system: str, generation_id: int) -> Scores:
    """Ranking metrics of the probes by question set."""
    metrics = _values(probes)
    masks = {name: own for name in QUESTION_SETS if (own := probes.question_sets == name).any()}
    values = {name: {metric: found[own] for metric, found in metrics.items()} for name, own in masks.items()}
    return Scores(system, generation_id, values, {name: probes.documents[own] for name, own in masks.items()})


def probe_change(probes: Probes, settings: Settings) -> Interval | None:
    """The change in nDCG@10 of the probes since the generation was made; None where there are no probes."""
    if not len(probes.question_ids):
        return None
    now = _values(probes)[NDCG]
    return paired_difference(now, probes.at_start, seed=settings.seed, groups=probes.documents)


def _values(probes: Probes) -> dict[str, NDArray[np.float64]]:
    names, codes = np.unique(
        np.concatenate([probes.chunk_ids[:, :TOP_K].ravel(), *probes.positives]), return_inverse=True
    )
    # Ids are hashes of 63 bits; the metrics want small numbers, and -1 for an empty place.
    codes -= int(len(names) > 0 and names[0] == -1)
    ranked = codes[: len(probes.question_ids) * TOP_K].reshape(-1, TOP_K)
    ends = np.cumsum([ranked.size, *(len(found) for found in probes.positives)])
    return ranking_metrics(ranked, [codes[start:end] for start, end in pairwise(ends)], TOP_K)
