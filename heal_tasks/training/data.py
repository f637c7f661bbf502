"""What training is given: questions with their documents, label paths and negatives, and a held-out set.

Everything is checked here, once, so that the loop does not have to.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.core.errors import InputError

IntArray = npt.NDArray[np.int64]

UNKNOWN = -1
"""Document id or leaf of which nothing is known."""

NO_NEGATIVE = ""
"""Stands where a question has fewer negatives than the others."""


def several_answers(question_ids: IntArray, document_ids: IntArray) -> dict[int, IntArray]:
    """The documents of questions that have several.

    Args:
        question_ids: int64, shape (n,); equal for pairs that ask the same.
        document_ids: int64, shape (n,).

    Returns:
        For each row whose question has further documents: all of them, ascending.
    """
    order = np.argsort(question_ids, kind="stable")
    found: dict[int, IntArray] = {}
    for rows in np.split(order, np.flatnonzero(np.diff(question_ids[order])) + 1):
        if len(rows) > 1 and len(documents := np.unique(document_ids[rows])) > 1:
            found.update(dict.fromkeys(rows.tolist(), documents))
    return found


@dataclass(frozen=True)
class ValidationSet:
    """Held-out questions with the documents they are looked for in.

    Args:
        queries: question texts.
        documents: document texts.
        positives: per query the positions of its right documents in ``documents``, int64, never empty.
    """

    queries: list[str]
    documents: list[str]
    positives: list[IntArray]

    def __post_init__(self) -> None:
        if len(self.queries) != len(self.positives):
            raise InputError(
                f"validation set has {len(self.queries)} queries and right documents for {len(self.positives)}; "
                "give one array of positions per query"
            )
        for query, found in zip(self.queries, self.positives, strict=True):
            if len(found) == 0 or int(found.min()) < 0 or int(found.max()) >= len(self.documents):
                raise InputError(
                    f"validation query {query!r} has right documents {found.tolist()}; give at least one position "
                    f"from 0 to {len(self.documents) - 1}"
                )


@dataclass(frozen=True)
class TrainingData:
    """Question-document pairs; row i of every field belongs to pair i.

    Args:
        questions: question texts, n of them.
        documents: the text that answers each question.
        document_ids: int64, shape (n,); not negative; pairs of one document share one.
        labels: int64, shape (n, L); label path of the document, unique ids, -1 from where the path has ended.
        leaves: int32, shape (n,); leaf of the topic tree, -1 for none.
        negatives: per pair m texts that do not answer the question, near misses for example; ``NO_NEGATIVE``
            where there are fewer; all lists have the same length, 0 for none.
        negative_document_ids: int64, shape (n, m); whose text a negative is. Where it is given, the negatives
            of one question serve the whole batch; where it is missing (or -1), a negative is used by its
            own question only, because for another question it may be the right document.
        negative_leaves: int32, shape (n, m); leaf of each negative; given together with the ids.
        question_ids: int64, shape (n,); equal for pairs that ask the same. The documents of all of them answer it, so
            none is a negative for it. None: every pair asks something of its own.
    """

    questions: list[str]
    documents: list[str]
    document_ids: IntArray
    labels: IntArray
    leaves: npt.NDArray[np.int32]
    negatives: list[list[str]]
    negative_document_ids: IntArray | None = None
    negative_leaves: npt.NDArray[np.int32] | None = None
    question_ids: IntArray | None = None

    def __post_init__(self) -> None:
        n, m = len(self.questions), self.negatives_per_question
        shapes = {
            "documents": ((len(self.documents),), (n,)),
            "document_ids": (self.document_ids.shape, (n,)),
            "labels": (self.labels.shape, (n, self.levels)),
            "leaves": (self.leaves.shape, (n,)),
            "negatives": ((len(self.negatives),), (n,)),
        }
        if self.question_ids is not None:
            shapes["question_ids"] = (self.question_ids.shape, (n,))
        if (self.negative_document_ids is None) != (self.negative_leaves is None):
            raise InputError("negative_document_ids and negative_leaves belong together; give both or neither")
        if self.negative_document_ids is not None and self.negative_leaves is not None:
            shapes["negative_document_ids"] = (self.negative_document_ids.shape, (n, m))
            shapes["negative_leaves"] = (self.negative_leaves.shape, (n, m))
        for name, (got, expected) in shapes.items():
            if got != expected:
                raise InputError(f"training data: {name} has shape {got}, expected {expected}")
        if any(len(texts) != m for texts in self.negatives):
            raise InputError(f"every question needs {m} negatives; fill up with NO_NEGATIVE")
        if n and int(self.document_ids.min()) < 0:
            raise InputError(f"document id {int(self.document_ids.min())} is negative; ids are 0 or larger")
        ended = self.labels < 0
        if bool((ended[:, :-1] & ~ended[:, 1:]).any()):
            row = int(np.argmax((ended[:, :-1] & ~ended[:, 1:]).any(axis=1)))
            raise InputError(
                f"label path {self.labels[row].tolist()} of row {row} goes on after -1; -1 is only for a path's end"
            )

    @property
    def answers(self) -> dict[int, IntArray]:
        """Document ids that answer each question that has several; keyed by the pairs' rows."""
        return {} if self.question_ids is None else several_answers(self.question_ids, self.document_ids)

    def text_ids(self, mined: int) -> IntArray:
        """Which columns of which rows hold the same text.

        Args:
            mined: columns of negatives that count.

        Returns:
            int64, shape (n, 2 + mined): question, document and negatives; equal where the texts are.
        """
        columns = [self.questions, self.documents, *zip(*self.negatives, strict=True)][: 2 + mined]
        numbers: dict[str, int] = {}
        found = [[numbers.setdefault(text, len(numbers)) for text in column] for column in columns]
        return np.array(found, dtype=np.int64).T

    @property
    def levels(self) -> int:
        """Length L of the label paths."""
        if self.labels.ndim != 2 or self.labels.shape[1] == 0:
            raise InputError(f"labels of shape {self.labels.shape} are no paths; expected (n, L) with L of 1 or more")
        return int(self.labels.shape[1])

    @property
    def negatives_per_question(self) -> int:
        """Number m of negatives per question."""
        return len(self.negatives[0]) if self.negatives else 0
