"""The planted corpus: topics known by construction, so that recovery can be graded."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.tfidf import NodeMatrix, count_terms

VOCABULARY = 3400


@dataclass(frozen=True)
class Planted:
    """Texts of invented words; labels int64, shape (n, 2): super-topic and sub-topic within it."""

    texts: list[str]
    labels: NDArray[np.int64]

    @property
    def fine(self) -> NDArray[np.int64]:
        return self.labels[:, 0] * 2 + self.labels[:, 1]


def plant(seed: int, documents: int = 1500) -> Planted:
    """Three super-topics of two sub-topics each over a Zipf background."""
    rng = np.random.default_rng(seed)
    background = 1 / np.arange(1, VOCABULARY + 1) ** 1.05
    background /= background.sum()

    def topic(words: int) -> NDArray[np.float64]:
        chosen = rng.choice(np.arange(60, VOCABULARY), words, replace=False)
        weights = rng.gamma(0.7, 1, words) + 0.02
        distribution = np.zeros(VOCABULARY)
        distribution[chosen] = weights / weights.sum()
        return distribution

    supers = [topic(250) for _ in range(3)]
    subs = [[topic(120) for _ in range(2)] for _ in range(3)]
    names = np.array([f"w{rank}x" for rank in range(VOCABULARY)])
    texts, labels = [], np.zeros((documents, 2), np.int64)
    for document in range(documents):
        labels[document] = s, t = rng.integers(3), rng.integers(2)
        words = 0.35 * background + 0.65 * (0.45 * supers[s] + 0.55 * subs[s][t])
        counts = rng.multinomial(rng.integers(60, 240), words / words.sum())
        texts.append(" ".join(np.repeat(names, counts)))
    return Planted(texts, labels)


def tfidf(texts: list[str]) -> csr_array:
    """TF-IDF with the vocabulary limits of a node."""
    counts, _ = count_terms(texts)
    return NodeMatrix.of(counts, HNMFkConfig()).X


@pytest.fixture(scope="session")
def planted() -> Planted:
    return plant(0, documents=480)


@pytest.fixture(scope="session")
def plant_corpus() -> Callable[..., Planted]:
    return plant
