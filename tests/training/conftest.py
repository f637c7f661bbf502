"""A tiny encoder with random weights and a planted corpus: real training in seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from heal_tasks.training.data import TrainingData, ValidationSet
from tests.training.pairs import unknown
from tests.training.tiny import write_encoder

WORDS = 24
"""The corpus speaks two languages: questions say q7 where documents say d7. An encoder has to learn the dictionary."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Matrices are so small that a second thread would only wait."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a two-layer encoder that knows nothing."""
    words = [f"{language}{number}" for language in "qdn" for number in range(WORDS)]
    return write_encoder(tmp_path_factory.mktemp("tiny"), words)


@pytest.fixture(scope="session")
def planted() -> tuple[TrainingData, ValidationSet]:
    """64 documents in four leaves below two branches; 48 of them are trained on, with two questions each."""
    rng = np.random.default_rng(0)
    keys = [rng.choice(WORDS // 4, 3, replace=False) + leaf * (WORDS // 4) for leaf in range(4) for _ in range(16)]
    documents = [" ".join([f"d{key}" for key in row] + [f"n{rng.integers(WORDS)}" for _ in range(3)]) for row in keys]
    train = [number for number in range(64) if number % 4]
    held_out = [number for number in range(64) if not number % 4]

    def question(number: int) -> str:
        return " ".join(f"q{key}" for key in rng.permutation(keys[number]))

    pairs = [number for number in train for _ in range(2)]
    leaves = np.array([number // 16 for number in pairs], dtype=np.int32)
    negatives = [[documents[(number + 16) % 64]] for number in pairs]
    data = TrainingData(
        questions=[question(number) for number in pairs],
        documents=[documents[number] for number in pairs],
        document_ids=np.array(pairs, dtype=np.int64) + 2**61,
        labels=np.stack([leaves // 2, leaves + 2], axis=1).astype(np.int64),
        leaves=leaves,
        negatives=negatives,
        **unknown(negatives),
    )
    validation = ValidationSet(
        queries=[question(number) for number in held_out],
        documents=documents,
        positives=[np.array([number]) for number in held_out],
        document_ids=np.arange(64),
        paths=np.stack([np.arange(64) // 32, np.arange(64) // 16 + 2], axis=1),
    )
    return data, validation
