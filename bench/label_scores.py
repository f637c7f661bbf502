"""Scores of vectors against true label paths: classification, retrieval of topic-mates, silhouettes.

Everything is one value per document, so that intervals and paired differences draw documents. A pooled ratio is turned
into such values by ``ratio_values``.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heal_tasks.evaluation.ranking import ranking_metrics, top_k

Floats = NDArray[np.float32]
Values = NDArray[np.float64]
Paths = NDArray[np.int64]
"""Label ids from level 1 down, shape (n, L); unique in the whole tree, -1 after a path's end."""
K = 10
NEIGHBOURS = 10
RIDGES = (0.01, 0.1, 1.0, 10.0)


def encode_paths(labels: Sequence[tuple[str, ...]]) -> Paths:
    """Label paths as ids; two labels are equal if their whole paths are."""
    prefixes = dict.fromkeys(path[: level + 1] for path in labels for level in range(len(path)))
    number = {prefix: place for place, prefix in enumerate(prefixes)}
    paths = np.full((len(labels), max(map(len, labels), default=0)), -1, dtype=np.int64)
    for row, path in enumerate(labels):
        paths[row, : len(path)] = [number[path[: level + 1]] for level in range(len(path))]
    return paths


def nearest_paths(known: Floats, paths: Paths, vectors: Floats, neighbours: int = NEIGHBOURS) -> Paths:
    """Label paths by the votes of the nearest known documents, each of which votes with its cosine, at least 0.

    The vote goes level by level: below the chosen label only the neighbours that have it vote, and a neighbour whose
    path has ended votes for an end. Of equal labels the smaller id wins.

    Args:
        known: unit vectors of the documents with labels, shape (n, d).
        paths: their labels, shape (n, L).
        vectors: unit vectors of the documents to classify, shape (m, d).
        neighbours: number of voters.

    Returns:
        Predicted paths, shape (m, L).
    """
    found, cosines = top_k(vectors, known, neighbours)
    predicted = np.full((len(vectors), paths.shape[1]), -1, dtype=np.int64)
    for row, (voters, votes) in enumerate(zip(found, cosines, strict=True)):
        votes, voters = np.maximum(votes[voters >= 0], 0), voters[voters >= 0]
        for level in range(paths.shape[1]):
            labels, label = np.unique(paths[voters, level], return_inverse=True)
            best = labels[np.bincount(label, weights=votes).argmax()]
            if best < 0:
                break
            predicted[row, level] = best
            votes, voters = votes[paths[voters, level] == best], voters[paths[voters, level] == best]
    return predicted


def probe_paths(known: Floats, paths: Paths, vectors: Floats) -> Paths:
    """Label paths by a linear probe: for each level a ridge classifier of its own, ended paths as a class.

    The penalty is chosen by leave-one-out on the known documents. Arguments and result as of ``nearest_paths``.
    """
    from sklearn.linear_model import RidgeClassifierCV

    return np.stack(
        [
            RidgeClassifierCV(alphas=RIDGES).fit(known, labels).predict(vectors)
            if len(np.unique(labels)) > 1
            else np.full(len(vectors), labels[0])
            for labels in paths.T
        ],
        axis=1,
    )


def ratio_values(parts: NDArray[np.integer], wholes: NDArray[np.integer]) -> Values:
    """Values per document whose mean is the pooled ratio sum(parts) / sum(wholes).

    They are the ratio's linearisation (Cochran, Sampling Techniques, section 6.3), so the interval of their mean is the
    ratio's.
    """
    ratio = parts.sum() / max(1, wholes.sum())
    return np.asarray(ratio + (parts - ratio * wholes) / max(wholes.mean(), np.finfo(float).tiny), dtype=np.float64)


def classification(predicted: Paths, truth: Paths) -> dict[str, Values]:
    """Hierarchical precision, recall and F1 (see ``evaluation.hierarchy``), and F1 of each level, per document."""
    shared, given, wanted = (predicted == truth) & (truth >= 0), predicted >= 0, truth >= 0
    scores = {
        "hP": ratio_values(shared.sum(axis=1), given.sum(axis=1)),
        "hR": ratio_values(shared.sum(axis=1), wanted.sum(axis=1)),
        "hF1": ratio_values(2 * shared.sum(axis=1), given.sum(axis=1) + wanted.sum(axis=1)),
    }
    for level in range(truth.shape[1]):
        scores[f"F1 {level + 1}"] = ratio_values(2 * shared[:, level], given[:, level].astype(int) + wanted[:, level])
    return scores


def topic_mates(vectors: Floats, labels: NDArray[np.int64]) -> tuple[dict[str, Values], NDArray[np.int64]]:
    """Rank all other documents for each document; those with its label are relevant.

    Args:
        vectors: unit vectors, shape (n, d), n above ``K``.
        labels: shape (n,), -1 for none.

    Returns:
        ``MRR``, ``nDCG`` and ``P`` at ``K`` of every document with a mate, and their rows.
    """
    found = top_k(vectors, vectors, K + 1)[0]
    own = np.arange(len(vectors))
    found = np.stack([row[row != place][:K] for place, row in zip(own, found, strict=True)])
    mates = [np.flatnonzero((labels == label) & (own != place)) for place, label in enumerate(labels)]
    rows = np.array([row for row in own if labels[row] >= 0 and len(mates[row])], dtype=np.int64)
    return _ranked(found[rows], [mates[row] for row in rows]), rows


def topic_answers(
    questions: Floats, owners: NDArray[np.int64], vectors: Floats, labels: NDArray[np.int64]
) -> tuple[dict[str, Values], NDArray[np.int64]]:
    """Rank all documents for each question; those with the label of its document are relevant, this one included.

    Args:
        questions: unit vectors, shape (q, d).
        owners: shape (q,), the row of each question's document.
        vectors: unit vectors of the documents, shape (n, d), n at least ``K``.
        labels: shape (n,), -1 for none.

    Returns:
        ``MRR``, ``nDCG`` and ``P`` at ``K`` of every question whose document has a label, and the questions' rows.
    """
    rows = np.flatnonzero(labels[owners] >= 0)
    mates = [np.flatnonzero(labels == labels[owners[row]]) for row in rows]
    return _ranked(top_k(questions[rows], vectors, K)[0], mates), rows


def _ranked(found: NDArray[np.int64], relevant: list[NDArray[np.int64]]) -> dict[str, Values]:
    scores = ranking_metrics(found, relevant, K)
    reachable = np.array([min(len(rows), K) for rows in relevant])
    return {"MRR": scores[f"mrr@{K}"], "nDCG": scores[f"ndcg@{K}"], "P": scores[f"recall@{K}"] * reachable / K}


def silhouettes(vectors: Floats, labels: NDArray[np.int64]) -> tuple[Values, NDArray[np.int64]]:
    """Silhouettes by cosine distance of the documents whose label another one has too, and their rows."""
    from sklearn.metrics import silhouette_samples

    _, label, count = np.unique(labels, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((labels >= 0) & (count[label] > 1))
    if len(np.unique(labels[rows])) < 2:
        return np.zeros(0), rows[:0]
    return np.asarray(silhouette_samples(vectors[rows], labels[rows], metric="cosine"), dtype=np.float64), rows
