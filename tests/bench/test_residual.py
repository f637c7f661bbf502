"""The head that stands in for a trained encoder."""

import numpy as np

from bench.residual import ResidualHead, train_head


def test_it_starts_as_the_identity_and_learns_which_question_belongs_to_which_document() -> None:
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(60, 16)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    asked = documents + 2 * documents[7]  # every question is drawn towards the same document
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    rows = np.arange(60)
    np.testing.assert_allclose(ResidualHead(16).moved(documents), documents, atol=1e-6)

    def found(steps: int) -> float:
        head = train_head(asked, documents, rows, steps=steps, seed=1)
        return float(((head.moved(asked) @ head.moved(documents).T).argmax(axis=1) == rows).mean())

    assert found(0) < 0.2
    assert found(300) > 0.8
