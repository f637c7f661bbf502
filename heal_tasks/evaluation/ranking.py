"""Rankings of documents: exact top-k search, and metrics per question.

Metrics stay per question, because intervals and the gate compare paired questions. Of equal scores the lower document
index comes first, so two runs over the same vectors give the same ranking.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import InputError

Floats = NDArray[np.floating]
Indices = NDArray[np.int64]
Relevance = Sequence[NDArray[np.integer]]
"""Indices of the relevant documents of each question."""
ROUNDING = 1e-6
"""Inner products of the same unit vectors, computed in another order, differ by less."""


def top_k(
    queries: Floats, documents: Floats, k: int, *, block: int = 8192, query_block: int = 512
) -> tuple[Indices, NDArray[np.float32]]:
    """Find the k documents with the largest inner product for each query, exactly.

    Args:
        queries: shape (m, d); computed in float32.
        documents: shape (n, d).
        k: documents per query.
        block: documents scored at a time; with ``query_block`` it bounds the memory.
        query_block: queries scored at a time.

    Returns:
        Document indices and scores, both of shape (m, k), best first; -1 and -inf where n < k.

    Raises:
        InputError: shapes do not fit, k < 1, or a vector has a value that is not finite.
    """
    if k < 1:
        raise InputError(f"k={k} documents were asked for; ask for at least 1")
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise InputError(
            f"queries of shape {queries.shape} cannot be compared with documents of shape {documents.shape}; "
            "both must be (rows, dimensions) by the same encoder"
        )
    m, n = len(queries), len(documents)
    indices = np.full((m, k), -1, dtype=np.int64)
    scores = np.full((m, k), -np.inf, dtype=np.float32)
    width = min(k, n)
    if width == 0:
        return indices, scores
    # The first block fills all places, so that later blocks only have to beat the worst of them.
    block = max(block, width)
    for first in range(0, m, query_block):
        part = _finite(queries, first, query_block, "query")
        places = np.arange(len(part))
        index, score = np.empty((len(part), 0), dtype=np.int64), np.empty((len(part), 0), dtype=np.float32)
        for start in range(0, n, block):
            found = part @ _finite(documents, start, block, "document").T  # (q, b)
            # Later blocks strictly: an equal score has the higher index there and loses the tie.
            keep = found > score[:, -1, None] if start else found >= np.partition(found, -width)[:, -width, None]
            rows, columns = np.nonzero(keep)
            query = np.concatenate([np.repeat(places, index.shape[1]), rows])
            merged = np.concatenate([index.ravel(), columns + start])
            values = np.concatenate([score.ravel(), found[rows, columns]])
            order = np.lexsort((merged, -values, query))
            # Every query has at least `width` of these, and the first `width` of its run are its best.
            chosen = order[np.searchsorted(query[order], places)[:, None] + np.arange(width)]
            index, score = merged[chosen], values[chosen]
        indices[first : first + query_block, :width] = index
        scores[first : first + query_block, :width] = score
    return indices, scores


def ranks_of(
    queries: Floats,
    documents: Floats,
    positives: NDArray[np.integer],
    *,
    sampled: NDArray[np.integer] | None = None,
    query_block: int = 512,
) -> Indices:
    """Rank of one document per query among all documents, by inner product, shape (m,).

    The best has rank 1; equal scores share the better rank.

    Args:
        queries: shape (m, d); computed in float32.
        documents: shape (n, d).
        positives: shape (m,): the document of each query.
        sampled: shape (s,): documents that are compared instead of all; the ranks are then estimated.
        query_block: queries scored at a time; bounds the memory at ``query_block`` x n.

    Raises:
        InputError: a document that does not exist, or a vector has a value that is not finite.
    """
    if len(positives) != len(queries) or (
        len(positives) and not 0 <= positives.min() <= positives.max() < len(documents)
    ):
        raise InputError(
            f"{len(positives)} positives for {len(queries)} queries; give each query one document, "
            f"from 0 to {len(documents) - 1}"
        )
    compared = _finite(documents if sampled is None else documents[sampled], 0, len(documents), "document").T
    ranks = np.empty(len(queries), dtype=np.int64)
    for first in range(0, len(queries), query_block):
        part = _finite(queries, first, query_block, "query")
        answers = positives[first : first + query_block]
        own = np.einsum("qd,qd->q", part, _finite(documents[answers], 0, query_block, "document"))
        better = (part @ compared > own[:, None] + ROUNDING).sum(axis=1)
        ranks[first : first + query_block] = 1 + better * len(documents) // compared.shape[1]
    return ranks


def first_of_each(indices: Indices, owners: NDArray[np.integer], k: int) -> Indices:
    """Keep the best chunk of every document, at most k, best first: shape (m, k), the rest is -1.

    Args:
        indices: shape (m, c): ranked chunks, best first; -1 for an empty place.
        owners: shape (n,): the document of each chunk.
        k: most chunks to keep.
    """
    kept = np.full((len(indices), k), -1, dtype=np.int64)
    for row, ranked in enumerate(indices):
        found = ranked[ranked >= 0]
        best = found[np.sort(np.unique(owners[found], return_index=True)[1])][:k]
        kept[row, : len(best)] = best
    return kept


def ranking_metrics(indices: Indices, positives: Relevance, k: int = 10) -> dict[str, NDArray[np.float64]]:
    """Score rankings against the relevant documents.

    Gains are linear (each relevant document counts 1). nDCG is divided by the best value that the question's number of
    relevant documents allows in k places; recall by min(relevant, k), so that 1 can always be reached.

    Args:
        indices: shape (m, c) with c >= k: ranked documents, best first; -1 for an empty place.
        positives: relevant documents of each of the m questions; repeated ones count once.
        k: places that count.

    Returns:
        ``ndcg@k``, ``recall@k``, ``mrr@k`` and ``accuracy@1``, each of shape (m,).

    Raises:
        InputError: a question without relevant documents, a document ranked twice, or shapes that do not fit.
    """
    if indices.ndim != 2 or len(indices) != len(positives):
        raise InputError(f"rankings of shape {indices.shape} do not fit {len(positives)} questions; pass one row each")
    if k < 1 or indices.shape[1] < k:
        raise InputError(f"rankings of {indices.shape[1]} places cannot be scored at k={k}; rank at least k documents")
    ranked = indices[:, :k]
    ordered = np.sort(ranked, axis=1)
    repeated = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1))
    if len(repeated):
        raise InputError(f"the ranking of question {repeated[0]} names a document twice; merge its chunks first")
    owners, wanted = _flat(positives)
    # One number per (question, document) makes membership a single sorted lookup.
    span = int(max(wanted.max(initial=0), ranked.max(initial=0))) + 1
    pairs = np.sort(owners * span + wanted)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    sizes = np.bincount(pairs // span, minlength=len(positives))
    asked = np.where(ranked >= 0, np.arange(len(ranked))[:, None] * span + ranked, -1)
    found = np.minimum(np.searchsorted(pairs, asked), max(len(pairs) - 1, 0))
    relevant = (pairs[found] == asked).astype(np.float64) if len(pairs) else np.zeros(ranked.shape)  # (m, k)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    reachable = np.minimum(sizes, k)
    first = np.argmax(relevant, axis=1)
    return {
        f"ndcg@{k}": relevant @ discounts / np.cumsum(discounts)[reachable - 1],
        f"recall@{k}": relevant.sum(axis=1) / reachable,
        f"mrr@{k}": np.where(relevant.any(axis=1), 1.0 / (first + 1), 0.0),
        "accuracy@1": relevant[:, 0].copy(),
    }


def evaluate(queries: Floats, documents: Floats, positives: Relevance, k: int = 10) -> dict[str, NDArray[np.float64]]:
    """Rank all documents for each query as ``top_k`` does, and score the rankings as ``ranking_metrics`` does.

    Raises:
        InputError: as these, or a relevant document that does not exist.
    """
    owners, wanted = _flat(positives)
    missing = np.flatnonzero(wanted >= len(documents))
    if len(missing):
        raise InputError(
            f"question {owners[missing[0]]} names document {wanted[missing[0]]}, but there are {len(documents)}"
        )
    return ranking_metrics(top_k(queries, documents, k)[0], positives, k)


def _flat(positives: Relevance) -> tuple[Indices, Indices]:
    """Question and document of every relevant pair, checked."""
    sizes = np.array([len(rows) for rows in positives], dtype=np.int64)
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        raise InputError(f"question {empty[0]} has no relevant document; drop it before scoring")
    owners = np.repeat(np.arange(len(sizes)), sizes)
    wanted = np.concatenate([np.asarray(rows, dtype=np.int64) for rows in positives] or [np.empty(0, dtype=np.int64)])
    negative = np.flatnonzero(wanted < 0)
    if len(negative):
        raise InputError(f"question {owners[negative[0]]} names document {wanted[negative[0]]}; indices start at 0")
    return owners, wanted


def _finite(rows: Floats, start: int, size: int, what: str) -> NDArray[np.float32]:
    """Some rows as float32, checked."""
    part = np.asarray(rows[start : start + size], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
    if len(bad):
        raise InputError(f"the vector of {what} {start + bad[0]} has a value that is not finite; encode it again")
    return part
