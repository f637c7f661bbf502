"""Which questions are trained on and which are kept for judging, by hash, so that the answer never changes.

Two held-out sets (DESIGN.md, decision 1): all questions of *unseen* documents, and some questions of *seen*
ones. The document decides first; only a seen document's questions are divided further.
"""

from heal_tasks.core.ids import bucket
from heal_tasks.core.types import Split

_BUCKETS = 1000
_TEST_BELOW = 100
_VALIDATION_BELOW = 200


def is_unseen(document_id: int) -> bool:
    """Whether a document takes no part in training, topic labels or nudging.

    Args:
        document_id: the document.

    Returns:
        True for about one document in five.
    """
    return bucket("document-split", document_id, _BUCKETS) < _VALIDATION_BELOW


def split_of(document_id: int, question_id: int) -> Split:
    """The split of a question.

    Args:
        document_id: the document that its chunk belongs to.
        question_id: the question.

    Returns:
        For 10 % of documents unseen_test, for 10 % unseen_validation; of the other documents' questions 10 %
        are seen_test, 10 % seen_validation and the rest train.
    """
    document = bucket("document-split", document_id, _BUCKETS)
    if document < _TEST_BELOW:
        return "unseen_test"
    if document < _VALIDATION_BELOW:
        return "unseen_validation"
    question = bucket("question-split", question_id, _BUCKETS)
    if question < _TEST_BELOW:
        return "seen_test"
    return "seen_validation" if question < _VALIDATION_BELOW else "train"
