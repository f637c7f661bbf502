"""Splits of questions into training, validation and test, by hash, so that a question's split never changes.

There are two held-out sets, because a model can improve on one and lose on the other: all questions about *unseen*
documents, which have no training questions, and some questions about *seen* ones.
"""

from typing import Literal

from heal_tasks.core.ids import bucket
from heal_tasks.core.types import Split

Purpose = Literal["train", "test"]

_TEST_BELOW = 100  # of 1000 buckets
_VALIDATION_BELOW = 200


def is_unseen(document_id: int) -> bool:
    """True if a document takes no part in training, topic labels or NUDGE: about one in five."""
    return bucket("document-split", document_id) < _VALIDATION_BELOW


def is_unseen_test(document_id: int) -> bool:
    """True if a document is kept for tests: one in ten, half of the unseen ones."""
    return bucket("document-split", document_id) < _TEST_BELOW


def split_of(document_id: int, question_id: int) -> Split:
    """The split of a question about a document.

    For 10 % of documents it is unseen_test, for 10 % unseen_validation; of the other documents' questions 10 % are
    seen_test, 10 % seen_validation and the rest train.
    """
    if is_unseen(document_id):
        return "unseen_test" if is_unseen_test(document_id) else "unseen_validation"
    question = bucket("question-split", question_id)
    if question < _TEST_BELOW:
        return "seen_test"
    return "seen_validation" if question < _VALIDATION_BELOW else "train"


def purpose_of(split: Split) -> Purpose:
    """The use of a split's judgments: for test, or for training, which includes validation."""
    return "test" if split.endswith("test") else "train"


def judgment_split(document_id: int, query: int, given: Purpose | None = None) -> Split:
    """The split of a judgment, by the hash of its query's text or as given by the collection that it comes from.

    All judgments of one query are on the same side of training and test: a query that trains for one document and tests
    another would count the first as a wrong answer. Where nothing is given one query in ten is for test. The others'
    judgments are for training, except those of unseen documents and one query in ten: they are for validation.
    """
    place = bucket("question-split", query)
    unseen = is_unseen(document_id)
    if given == "test" or (given is None and place < _TEST_BELOW):
        return "unseen_test" if unseen else "seen_test"
    if unseen:
        return "unseen_validation"
    return "seen_validation" if _TEST_BELOW <= place < _VALIDATION_BELOW else "train"
