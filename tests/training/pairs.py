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
    }
    return TrainingData(**{**fields, **change})
