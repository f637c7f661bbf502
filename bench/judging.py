"""The test queries of a collection, and the ranking metrics of each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.quality_rows import Values
from heal_tasks.evaluation.ranking import first_of_each, ranking_metrics
from heal_tasks.steps.quality.scoring import BY_ENCODER, System, judged, rank
from heal_tasks.steps.vectors.systems import Systems
from heal_tasks.store.documents.corpus import ChunkTable


@dataclass(frozen=True)
class Test:
    """Official test queries, and the ids in the store of the documents that answer each."""

    queries: list[str]
    answers: list[NDArray[np.int64]]


class TestQueries:
    """The test queries as the held-out judgments that a deployment has stored."""

    def __init__(self, systems: Systems) -> None:
        test = systems.questions.human & systems.questions.in_splits("unseen_test")
        self._key, self._chunks = judged(systems.questions, systems.chunks, test), systems.chunks

    def values(self, system: System, path: str = BY_ENCODER, *, words: bool = False) -> Values:
        """Ranking metrics of each query over documents, without or with words."""
        return rank(system, self._key, self._chunks, path, documents=True, words=words)[1]


def ranked_values(found: NDArray[np.int64], chunks: ChunkTable, test: Test) -> Values:
    """Ranking metrics per test query over documents, each by its best chunk."""
    documents, numbers = np.unique(chunks.document_ids, return_inverse=True)
    best = first_of_each(found, numbers, 10)
    ranked = np.where(best >= 0, numbers[best], -1)
    return ranking_metrics(ranked, [np.searchsorted(documents, wanted) for wanted in test.answers])
