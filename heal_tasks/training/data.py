"""Training data: questions with documents, label paths and negatives, and a validation set; checked when made."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.core.errors import InputError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

UNKNOWN = -1
"""Unknown document id or leaf."""

NO_NEGATIVE = ""
"""Fills the row of a question that has fewer negatives than the others."""


def several_answers(question_ids: IntArray, document_ids: IntArray) -> dict[int, IntArray]:
    """For each row of a question that several documents answer: the ids of all of them, ascending.

    Both arguments are int64, shape (n,); pairs with the same question have equal question ids.
    """
    order = np.argsort(question_ids, kind="stable")
    found: dict[int, IntArray] = {}
    for rows in np.split(order, np.flatnonzero(np.diff(question_ids[order])) + 1):
        if len(rows) > 1 and len(documents := np.unique(document_ids[rows])) > 1:
            found.update(dict.fromkeys(rows.tolist(), documents))
    return found


@dataclass(frozen=True)
class ValidationSet:
    """Held-out questions, and the documents to search.

    ``base_vectors`` are the base model's unit vectors of queries, shape (q, d), and documents, shape (n, d); None to
    compute them.
    """

    queries: list[str]  # q texts
    documents: list[str]  # n texts
    positives: list[IntArray]  # per query the positions of its right documents in ``documents``, never empty
    document_ids: IntArray  # (n,): equal for texts of one document
    paths: IntArray  # (n, L): the documents' label paths, -1 after their end
    base_vectors: tuple[FloatArray, FloatArray] | None = None

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
        if self.base_vectors is not None:
            given, texts = tuple(map(len, self.base_vectors)), (len(self.queries), len(self.documents))
            if given != texts:
                raise InputError(f"validation set has {given} base vectors for {texts} queries and documents")
        if (len(self.document_ids), len(self.paths)) != (len(self.documents), len(self.documents)):
            raise InputError(
                f"validation set has {len(self.document_ids)} document ids and {len(self.paths)} paths for "
                f"{len(self.documents)} documents"
            )


@dataclass(frozen=True)
class TrainingData:
    """Question-document pairs; row i of every field belongs to pair i.

    A negative with a known document serves the whole batch; any other serves its own question only, because it may
    answer another one. All documents of pairs with the same question answer it, so none is a negative for it.
    """

    questions: list[str]  # n texts
    documents: list[str]  # the text that answers each question
    document_ids: IntArray  # (n,), not negative; equal for pairs of one document
    labels: IntArray  # (n, L): the document's label path, unique ids, -1 after its end
    leaves: npt.NDArray[np.int32]  # (n,): leaf of the topic tree, -1 for none
    negatives: list[list[str]]  # per pair m texts that do not answer the question, filled up with NO_NEGATIVE
    negative_document_ids: IntArray  # (n, m): -1 where it is unknown
    negative_leaves: npt.NDArray[np.int32]  # (n, m): -1 for none
    question_ids: IntArray  # (n,), equal for pairs with the same question

    def __post_init__(self) -> None:
        n, m = len(self.questions), self.negatives_per_question
        if self.labels.ndim != 2 or self.labels.shape[1] == 0:
            raise InputError(f"labels of shape {self.labels.shape} are not valid paths; expected (n, L) with L >= 1")
        shapes: dict[str, tuple[int, ...]] = {
            "documents": (n,), "document_ids": (n,), "labels": (n, self.labels.shape[1]), "leaves": (n,),
            "negatives": (n,), "question_ids": (n,), "negative_document_ids": (n, m), "negative_leaves": (n, m),
        }  # fmt: skip
        for name, expected in shapes.items():
            values = getattr(self, name)
            got = (len(values),) if isinstance(values, list) else values.shape
            if got != expected:
                raise InputError(f"training data: {name} has shape {got}, expected {expected}")
        if any(len(texts) != m for texts in self.negatives):
            raise InputError(f"every question needs {m} negatives; fill up with NO_NEGATIVE")
        if n and int(self.document_ids.min()) < 0:
            raise InputError(f"document id {int(self.document_ids.min())} is negative; ids are 0 or larger")
        ended = self.labels < 0
        broken = (ended[:, :-1] & ~ended[:, 1:]).any(axis=1)
        if broken.any():
            row = int(np.argmax(broken))
            raise InputError(
                f"label path {self.labels[row].tolist()} of row {row} goes on after -1; -1 is only for a path's end"
            )

    def text_ids(self, mined: int) -> IntArray:
        """Numbers of question, document and ``mined`` negatives, equal where the texts are; int64, (n, 2 + mined)."""
        columns = [self.questions, self.documents, *zip(*self.negatives, strict=True)][: 2 + mined]
        numbers: dict[str, int] = {}
        found = [[numbers.setdefault(text, len(numbers)) for text in column] for column in columns]
        return np.array(found, dtype=np.int64).T

    @property
    def negatives_per_question(self) -> int:
        """Number m of negatives per question."""
        return len(self.negatives[0]) if self.negatives else 0
