"""A residual head on frozen vectors, which trains in seconds: a stand-in for an encoder that takes an hour."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heal_tasks.training.encoder import limited_threads
from heal_tasks.training.ranking_losses import own_document_loss

TEMPERATURE = 0.05
BATCH, LEARNING_RATE = 64, 3e-4


class ResidualHead(nn.Module):
    """Adds the output of two layers to a unit vector, zero at the start, and normalises the sum.

    Args:
        dims: of the vectors.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self._layers = nn.Sequential(nn.Linear(dims, 2 * dims), nn.GELU(), nn.Linear(2 * dims, dims))
        nn.init.zeros_(self._layers[2].weight)
        nn.init.zeros_(self._layers[2].bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """Move vectors, shape (n, dims)."""
        return nn.functional.normalize(vectors + self._layers(vectors), dim=1)

    def moved(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move the vectors of an array, without gradients."""
        with torch.no_grad():
            return np.asarray(self(torch.from_numpy(vectors)).numpy())


def pair_loss(
    head: ResidualHead,
    asked: NDArray[np.float32],
    documents: NDArray[np.float32],
    rows: NDArray[np.int64],
    known_answers: NDArray[np.bool_] | None = None,
) -> Tensor:
    """The own-document term of a batch without mined negatives.

    Args:
        head: moves both sides.
        asked: vectors of questions, float32, shape (b, d).
        documents: vectors of their documents, float32, shape (b, d).
        rows: the row of each document, int64, shape (b,).
        known_answers: see ``own_document_loss``, bool, shape (b, b); None: none.
    """
    nothing = torch.empty((len(rows), 0), dtype=torch.int64)
    no_copies = torch.zeros(len(rows), dtype=torch.bool)
    return own_document_loss(
        head(torch.from_numpy(asked)),
        head(torch.from_numpy(documents)),
        torch.empty((len(rows), 0, documents.shape[1])),
        document_ids=torch.from_numpy(rows),
        leaves=torch.full((len(rows),), -1),
        negative_document_ids=nothing,
        negative_leaves=nothing,
        temperature=TEMPERATURE,
        mask_same_leaf=False,
        known_answers=no_copies if known_answers is None else torch.from_numpy(known_answers),
        copies=no_copies,
    )


def train_head(
    asked: NDArray[np.float32], documents: NDArray[np.float32], rows: NDArray[np.int64], *, steps: int, seed: int
) -> ResidualHead:
    """Train a head on random batches of questions.

    Args:
        asked: vectors of questions, float32, shape (q, d).
        documents: vectors of all documents, float32, shape (n, d).
        rows: the document of each question, int64, shape (q,).
        steps: number of steps of AdamW.
        seed: of weights and batches.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    head = ResidualHead(documents.shape[1])
    optimiser = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE)
    with limited_threads(1):  # small matrices: a second thread would only wait
        for _ in range(steps):
            batch = rng.choice(len(rows), min(BATCH, len(rows)), replace=False)
            optimiser.zero_grad()
            pair_loss(head, asked[batch], documents[rows[batch]], rows[batch]).backward()
            optimiser.step()
    return head
