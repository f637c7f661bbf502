"""Scores against true labels: slow references, planted clusters, and the project's own hierarchical scores."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from bench import label_scores
from heal_tasks.evaluation.bootstrap import mean_interval
from heal_tasks.evaluation.hierarchy import hierarchical_scores

LABELS = [("a",), ("a", "x"), ("b", "x"), (), ("a", "x", "p"), ("a", "y")]


def unit(rng: np.random.Generator, n: int, d: int = 8) -> np.ndarray:
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def random_paths(rng: np.random.Generator, n: int) -> np.ndarray:
    """Paths of three levels, some of which end early; ids unique in the tree."""
    digits = rng.integers(0, 3, (n, 3))
    paths = np.stack([digits[:, 0], 10 + digits[:, :2] @ [3, 1], 100 + digits @ [9, 3, 1]], axis=1)
    return np.where(np.arange(3) < rng.integers(0, 4, n)[:, None], paths, -1)


def planted(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors close to the centre of their leaf, and their paths of two levels."""
    leaves = rng.integers(0, 6, n)
    vectors = np.eye(6, dtype=np.float32)[leaves] + rng.normal(scale=0.01, size=(n, 6)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.stack([leaves // 2, 10 + leaves], axis=1)


def test_the_same_name_below_two_parents_is_two_labels() -> None:
    paths = label_scores.encode_paths(LABELS)
    assert paths.shape == (6, 3)
    assert [[level >= 0 for level in path] for path in paths.tolist()] == [
        [level < len(label) for level in range(3)] for label in LABELS
    ]
    for level in range(1, 4):
        for one, first in zip(LABELS, paths, strict=True):
            for other, second in zip(LABELS, paths, strict=True):
                if min(len(one), len(other)) >= level:
                    assert (first[level - 1] == second[level - 1]) == (one[:level] == other[:level])


def test_the_vote_agrees_with_one_written_out() -> None:
    rng = np.random.default_rng(0)
    known, vectors, paths = unit(rng, 60), unit(rng, 40), random_paths(rng, 60)
    expected = []
    for vector in vectors:
        cosines = known @ vector
        voters = sorted(range(60), key=lambda row: -cosines[row])[:7]
        path: list[int] = []
        while len(path) < 3:
            votes: dict[int, float] = {}
            for row in voters:
                if paths[row, : len(path)].tolist() == path:
                    label = int(paths[row, len(path)])
                    votes[label] = votes.get(label, 0) + max(float(cosines[row]), 0)
            best = max(votes, key=lambda label: votes[label])
            if best < 0:
                break
            path.append(best)
        expected.append(path + [-1] * (3 - len(path)))
    assert label_scores.nearest_paths(known, paths, vectors, 7).tolist() == expected


@pytest.mark.parametrize("classify", [label_scores.nearest_paths, label_scores.probe_paths])
def test_planted_topics_are_found(classify) -> None:
    rng = np.random.default_rng(1)
    (known, paths), (vectors, truth) = planted(rng, 120), planted(rng, 50)
    assert (classify(known, paths, vectors) == truth).all()
    scores = label_scores.classification(truth, truth)
    assert {name: values.mean() for name, values in scores.items()} == dict.fromkeys(
        ["hP", "hR", "hF1", "F1 1", "F1 2"], 1.0
    )


def test_a_probe_with_one_label_predicts_it() -> None:
    rng = np.random.default_rng(2)
    paths = np.stack([np.full(20, 3), np.full(20, -1)], axis=1)
    assert (label_scores.probe_paths(unit(rng, 20), paths, unit(rng, 5)) == [3, -1]).all()


def test_means_are_the_projects_hierarchical_scores() -> None:
    rng = np.random.default_rng(3)
    predicted, truth = random_paths(rng, 200), random_paths(rng, 200)
    own = hierarchical_scores(predicted[:, None, :], truth)
    scores = {name: values.mean() for name, values in label_scores.classification(predicted, truth).items()}
    names = {
        "hP": "precision",
        "hR": "recall",
        "hF1": "f1",
        **{f"F1 {level}": f"f1@level{level}" for level in (1, 2, 3)},
    }
    assert scores == pytest.approx({name: own[key] for name, key in names.items()})


def test_the_interval_of_the_values_is_that_of_the_pooled_ratio() -> None:
    rng = np.random.default_rng(4)
    wholes = rng.integers(1, 7, 300)
    parts = rng.binomial(wholes, 0.4)
    drawn = rng.integers(0, 300, (4000, 300))
    low, high = np.quantile(parts[drawn].sum(axis=1) / wholes[drawn].sum(axis=1), [0.025, 0.975])
    found = mean_interval(label_scores.ratio_values(parts, wholes), seed=0)
    assert found.value == pytest.approx(parts.sum() / wholes.sum())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    assert (label_scores.ratio_values(parts * 0, wholes * 0) == 0).all()


def slow_ranking(scores: np.ndarray, left_out: int, relevant: set[int]) -> tuple[float, float, float]:
    """MRR, nDCG and precision at 10, from the definitions."""
    ranked = [row for row in np.argsort(-scores, kind="stable") if row != left_out][:10]
    hits = [row in relevant for row in ranked]
    best = sum(1 / np.log2(place + 2) for place in range(min(10, len(relevant))))
    return (
        next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0),
        sum(1 / np.log2(place + 2) for place, hit in enumerate(hits) if hit) / best,
        sum(hits) / 10,
    )


def test_topic_mates_agree_with_the_definitions() -> None:
    rng = np.random.default_rng(5)
    vectors, labels = unit(rng, 40), rng.integers(-1, 12, 40)
    vectors[7] = vectors[3]  # a copy may rank before the document itself, which is still left out
    scores, rows = label_scores.topic_mates(vectors, labels)
    expected = {}
    for row, label in enumerate(labels.tolist()):
        mates = {other for other in range(40) if labels[other] == label and other != row}
        if label >= 0 and mates:
            expected[row] = slow_ranking(vectors @ vectors[row], row, mates)
    assert rows.tolist() == list(expected)
    assert len(expected) < 40
    for place, name in enumerate(("MRR", "nDCG", "P")):
        assert scores[name] == pytest.approx([values[place] for values in expected.values()])


def test_answers_of_a_topic_agree_with_the_definitions() -> None:
    rng = np.random.default_rng(6)
    vectors, questions = unit(rng, 30), unit(rng, 50)
    labels, owners = rng.integers(-1, 4, 30), rng.integers(0, 30, 50)
    scores, rows = label_scores.topic_answers(questions, owners, vectors, labels)
    assert rows.tolist() == [row for row in range(50) if labels[owners[row]] >= 0]
    expected = [
        slow_ranking(vectors @ questions[row], -1, set(np.flatnonzero(labels == labels[owners[row]]))) for row in rows
    ]
    for place, name in enumerate(("MRR", "nDCG", "P")):
        assert scores[name] == pytest.approx([values[place] for values in expected])


def test_silhouettes_leave_out_labels_of_one_document_and_of_none() -> None:
    rng = np.random.default_rng(7)
    vectors, labels = unit(rng, 20), np.array([0] * 6 + [1] * 6 + [2] + [-1] * 7)
    values, rows = label_scores.silhouettes(vectors, labels)
    assert rows.tolist() == list(range(12))
    assert values.mean() == pytest.approx(silhouette_score(vectors[:12], labels[:12], metric="cosine"))
    for one in (np.full(20, 3), np.arange(20), np.full(20, -1)):
        assert [part.size for part in label_scores.silhouettes(vectors, one)] == [0, 0]
