"""Batches in which documents have topic-mates, so that every level of the HEAL loss finds positives.

Random batches of 32 from a tree with 60 leaves leave the fine levels almost without pairs. Here a batch is
made of groups of about four documents of one leaf. The unit is the document, not the question: an epoch
visits every document once, with the next of its questions. That keeps a document from meeting itself
as a negative, and one with many questions from outweighing the others; with q questions per document,
q epochs see all of them.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import BatchSampler

from heal_tasks.core.errors import InputError


class LeafBatchSampler(BatchSampler):
    """Yields lists of row numbers; a document at most once per epoch, so at most once per batch.

    Args:
        document_ids: integer, shape (n,); document of each row (question).
        leaves: integer, shape (n,); leaf of each row, the same for all rows of a document.
        batch_size: rows per batch; all documents where there are fewer.
        seed: with the epoch decides the order.
        documents_per_leaf: documents of one leaf that travel together, about.

    Raises:
        InputError: the arrays do not fit each other, are empty, or the batch size is not positive.
    """

    def __init__(
        self,
        document_ids: npt.NDArray[np.integer],
        leaves: npt.NDArray[np.integer],
        batch_size: int,
        *,
        seed: int,
        documents_per_leaf: int = 4,
    ) -> None:
        if document_ids.ndim != 1 or document_ids.shape != leaves.shape or len(document_ids) == 0:
            raise InputError(
                f"document_ids of shape {document_ids.shape} and leaves of shape {leaves.shape} do not fit; "
                "expected (n,) and (n,), not empty"
            )
        if batch_size < 1 or documents_per_leaf < 1:
            raise InputError(f"batch size {batch_size} and documents per leaf {documents_per_leaf} must be positive")
        _, first, document = np.unique(document_ids, return_index=True, return_inverse=True)
        order = np.argsort(document, kind="stable")
        self._rows = np.split(order, np.cumsum(np.bincount(document))[:-1])
        leaf_of_document = leaves[first]
        self._members = [np.flatnonzero(leaf_of_document == leaf) for leaf in np.unique(leaf_of_document)]
        self._seed, self._documents_per_leaf, self.epoch = seed, documents_per_leaf, 0
        super().__init__(range(len(document_ids)), min(batch_size, len(self._rows)), drop_last=True)

    def first(self, batches: int) -> npt.NDArray[np.int64]:
        """The rows that the first so many batches of a training hold, each once, in ascending order."""
        before, held = self.epoch, list[list[int]]()
        for epoch in range(-(-batches // len(self))):
            self.set_epoch(epoch)
            held.extend(self)
        self.set_epoch(before)
        return np.unique(np.array(held[:batches], dtype=np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is; the Trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches per epoch; the documents of an incomplete last batch wait for another epoch."""
        return len(self._rows) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of the current epoch: full ones only."""
        rng = np.random.default_rng((self._seed, self.epoch))
        documents = self._document_order(rng)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [self._question(int(document)) for document in documents[start : start + self.batch_size]]

    def _document_order(self, rng: np.random.Generator) -> npt.NDArray[np.intp]:
        """All documents, leaf-mates in groups, the groups of a leaf spread evenly over the epoch."""
        groups: list[npt.NDArray[np.intp]] = []
        keys: list[npt.NDArray[np.float64]] = []
        for members in self._members:
            count = max(1, round(len(members) / self._documents_per_leaf))
            groups.extend(np.array_split(rng.permutation(members), count))
            # Evenly spaced keys with jitter: a large leaf appears in every batch instead of filling some.
            keys.append((np.arange(count) + rng.random(count)) / count)
        return np.concatenate([groups[index] for index in np.argsort(np.concatenate(keys), kind="stable")])

    def _question(self, document: int) -> int:
        """The row of a document whose turn it is: a fixed random order, one further per epoch."""
        rows = self._rows[document]
        turn = np.random.default_rng((self._seed, document)).permutation(len(rows))
        return int(rows[turn[self.epoch % len(rows)]])
