"""Batch sampler over questions, grouped by leaf for the HEAL loss.

An epoch has each question once, so a document's weight is its number of questions. One question per document and
epoch instead costs ATT&CK, whose techniques have from one to hundreds of questions, six points of nDCG@10
(bench/RESULTS.md). Questions of one document share its encoding and are no negatives of each other, see ``objective``.
A question with several answers takes the next of them in each epoch.

Random batches of 32 from a tree with 60 leaves have almost no positives at the fine levels of the HEAL loss, so there
a batch consists of groups of about four questions of one leaf.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import BatchSampler

from heal_tasks.core.errors import InputError

MATES = 4
"""Approximate size of a group."""


class QuestionBatchSampler(BatchSampler):
    """Yields lists of row numbers; a question at most once per epoch, so at most once per batch.

    Args:
        question_ids: shape (n,), n at least 1; question of each row (a pair of question and document).
        leaves: shape (n,); leaf of each row; a question is grouped by its first row. None for random batches.
        batch_size: rows per batch, at least 1; all questions where there are fewer.
        seed: with the epoch decides the order.
    """

    def __init__(
        self,
        question_ids: npt.NDArray[np.integer],
        leaves: npt.NDArray[np.integer] | None,
        batch_size: int,
        *,
        seed: int,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size {batch_size} must be positive; lower HEAL_TRAIN_PROCESSES")
        _, first, question = np.unique(question_ids, return_index=True, return_inverse=True)
        order = np.argsort(question, kind="stable")
        self._rows = np.split(order, np.cumsum(np.bincount(question))[:-1])
        self._members: list[npt.NDArray[np.intp]] | None = None
        if leaves is not None:
            leaf_of_question = leaves[first]
            self._members = [np.flatnonzero(leaf_of_question == leaf) for leaf in np.unique(leaf_of_question)]
        self._seed, self.epoch = seed, 0
        super().__init__(range(len(question_ids)), min(batch_size, len(self._rows)), drop_last=True)

    def rows_of_first(self, batches: int) -> npt.NDArray[np.int64]:
        """The distinct rows in a training's first batches, ascending."""
        before, held = self.epoch, list[list[int]]()
        for epoch in range(-(-batches // len(self))):
            self.set_epoch(epoch)
            held.extend(self)
        self.set_epoch(before)
        return np.unique(np.array(held[:batches], dtype=np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; the Trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches per epoch; an incomplete last batch is dropped."""
        return len(self._rows) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        """The full batches of the current epoch."""
        rng = np.random.default_rng((self._seed, self.epoch))
        questions = rng.permutation(len(self._rows)) if self._members is None else self._by_leaf(self._members, rng)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [self._pair(int(question)) for question in questions[start : start + self.batch_size]]

    def _by_leaf(self, members: list[npt.NDArray[np.intp]], rng: np.random.Generator) -> npt.NDArray[np.intp]:
        """All questions in groups of one leaf, with a leaf's groups spread evenly over the epoch."""
        groups: list[npt.NDArray[np.intp]] = []
        keys: list[npt.NDArray[np.float64]] = []
        for questions in members:
            count = max(1, round(len(questions) / MATES))
            groups.extend(np.array_split(rng.permutation(questions), count))
            # Evenly spaced keys with jitter: a large leaf appears in every batch instead of filling some.
            keys.append((np.arange(count) + rng.random(count)) / count)
        return np.concatenate([groups[index] for index in np.argsort(np.concatenate(keys), kind="stable")])

    def _pair(self, question: int) -> int:
        """The row of a question in this epoch: its answers take turns in a fixed random order."""
        rows = self._rows[question]
        if len(rows) == 1:
            return int(rows[0])
        turn = np.random.default_rng((self._seed, question)).permutation(len(rows))
        return int(rows[turn[self.epoch % len(rows)]])
