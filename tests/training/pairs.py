"""Two training pairs with two negatives each."""

import numpy as np

from heal_tasks.training.data import NO_NEGATIVE, TrainingData


def data(**change) -> TrainingData:
    fields = {
        "questions": ["a", "b"],
        "documents": ["A", "B"],
        "document_ids": np.array([2**62, 7]),
        "labels": np.array([[1, 2], [3, -1]]),
        "leaves": np.array([4, -1], dtype=np.int32),
        "negatives": [["X", "Y"], ["Z", NO_NEGATIVE]],
        **change,
    }
    return TrainingData(**{**unknown(fields["negatives"]), **fields})


def unknown(negatives: list[list[str]]) -> dict[str, np.ndarray]:
    """The other fields of pairs whose questions differ and whose negatives belong to no known document."""
    shape = len(negatives), len(negatives[0])
    return {
        "negative_document_ids": np.full(shape, -1),
        "negative_leaves": np.full(shape, -1, dtype=np.int32),
        "question_ids": np.arange(len(negatives)),
    }
