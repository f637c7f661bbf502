import dataclasses

import numpy as np
import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.training.data import NO_NEGATIVE, ValidationSet
from tests.training.pairs import data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_ids": np.array([1])}, r"question_ids has shape \(1,\), expected \(2,\)"),
        ({"documents": ["A"]}, r"documents has shape \(1,\), expected \(2,\)"),
        ({"leaves": np.array([1], dtype=np.int32)}, "leaves has shape"),
        ({"negatives": [["X"], []]}, "every question needs 1 negatives"),
        ({"document_ids": np.array([-1, 2])}, "document id -1 is negative"),
        ({"labels": np.array([[1, 2], [-1, 3]])}, r"\[-1, 3\] of row 1 goes on after -1"),
        ({"labels": np.array([1, 2])}, r"labels of shape \(2,\) are not valid paths"),
        (
            {"negative_leaves": np.zeros((2, 3), dtype=np.int32)},
            r"negative_leaves has shape \(2, 3\), expected \(2, 2\)",
        ),
    ],
)
def test_training_data_refuses(change, message):
    with pytest.raises(InputError, match=message):
        data(**change)


def test_equal_texts_have_equal_ids():
    ids = data(documents=["A", "A"], negatives=[["B", "A"], ["b", NO_NEGATIVE]]).text_ids(2)
    assert ids.shape == (2, 4)
    assert ids[0, 1] == ids[1, 1] == ids[0, 3]
    assert len(np.unique(ids)) == 5
    assert data().text_ids(0).shape == (2, 2)


def test_training_data_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        data().questions = []


ONE = (np.zeros(1, np.int64), np.zeros((1, 1), np.int64))


def test_validation_refuses():
    with pytest.raises(InputError, match="query 'q' has right documents"):
        ValidationSet(["q"], ["d"], [np.array([1])], *ONE)
    with pytest.raises(InputError, match="1 queries and right documents for 0"):
        ValidationSet(["q"], ["d"], [], *ONE)
