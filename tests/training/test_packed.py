import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, WordWeights

from heal_tasks.training.adapters import add_adapter
from heal_tasks.training.encoder import load_encoder
from heal_tasks.training.packed import PackedBert, packs

# Lengths from zero to more than the window, some of them equal.
TEXTS = ["", "d1", "q2", "q1 q2 q3", "n1 n2 n3 n4 n5 n6 n7", "d3 d2 d1", "d4 " * 100, "n5 " * 100, "q9 n3 " * 12]

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"{a}{b}" for a in "qdn" for b in range(24))]
WEIGHTS = {word: 0.1 + number % 7 for number, word in enumerate(VOCABULARY)}


@pytest.fixture
def model(tiny_encoder: Path) -> SentenceTransformer:
    """Every weight is random: a new model's biases are zero, which would hide errors with them."""
    made = load_encoder(tiny_encoder, device="cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return made


def by_the_model(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    return np.stack([model.encode(text, show_progress_bar=False) for text in texts])


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_vectors_are_those_of_the_model_whatever_is_in_a_batch(model: SentenceTransformer, tokens: int):
    packed, expected = PackedBert(model, tokens), by_the_model(model, TEXTS)
    np.testing.assert_allclose(unit(packed.encode(TEXTS)), expected, atol=1e-6)
    for batch in (TEXTS[::-1], TEXTS[3:5], TEXTS[6:7]):
        rows = [TEXTS.index(text) for text in batch]
        np.testing.assert_allclose(unit(packed.encode(batch)), expected[rows], atol=1e-6)


def test_a_pass_has_no_more_tokens_than_allowed_but_at_least_a_text(model: SentenceTransformer):
    sizes = []

    class Recording(PackedBert):
        def _forward(self, ids: torch.Tensor, *rest: object) -> torch.Tensor:
            sizes.append(len(ids))
            return super()._forward(ids, *rest)  # type: ignore[arg-type]

    # Two texts of 48 tokens, one of 26, then 9, 5, 5, 3, 3 and 2: beginning and end are tokens, too.
    Recording(model, 40).encode(TEXTS)
    assert sizes == [48, 48, 40, 13]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bfloat16_is_as_close_as_the_models_own(model: SentenceTransformer, weights: torch.dtype):
    exact = by_the_model(model, TEXTS)
    own = unit(by_the_model(copy.deepcopy(model).to(torch.bfloat16), TEXTS))
    model.to(weights)
    assert packs(model)
    found = PackedBert(model, 60, torch.bfloat16).encode(TEXTS)
    assert found.dtype == np.float32
    error, allowed = (1 - (vectors * exact).sum(axis=1).min() for vectors in (unit(found), own))
    assert 0 < error < max(2 * allowed, 1e-3)


def test_changed_weights_are_used_at_once(model: SentenceTransformer):
    packed = PackedBert(model, 100)
    before = packed.encode(TEXTS)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    np.testing.assert_allclose(unit(packed.encode(TEXTS)), by_the_model(model, TEXTS), atol=1e-6)
    assert not np.allclose(unit(packed.encode(TEXTS)), unit(before), atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model[1], "pooling_mode", "cls"),
        lambda model: model.append(Dense(32, 8)),
        lambda model: model.insert(2, Dense(32, 8, use_residual=True)),
        lambda model: (setattr(model[1], "pooling_mode", "cls"), model.insert(2, Dense(32, 48))),
        lambda model: (model.insert(1, WordWeights(VOCABULARY, WEIGHTS)), model.insert(3, Dense(32, 8))),
    ],
    ids=["first token", "last layer", "before the normalisation", "first token and layer", "weights and layer"],
)
def test_pooling_and_last_layers_are_the_models(
    model: SentenceTransformer, change: Callable[[SentenceTransformer], object]
):
    change(model)
    assert packs(model)
    # Without normalisation, too: a layer with a bias sees the mean and not the sum.
    exact = by_the_model(model, TEXTS)
    np.testing.assert_allclose(PackedBert(model, 60).encode(TEXTS), exact, atol=1e-6)
    half = PackedBert(model.to(torch.bfloat16), 60).encode(TEXTS)
    assert half.dtype == np.float32
    assert (unit(half) * unit(exact)).sum(axis=1).min() > 0.99


def test_a_plain_bert_is_packed(model: SentenceTransformer):
    assert packs(model)
    del model[2]
    assert packs(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model[1], "pooling_mode", "max"),
        lambda model: setattr(model[1], "include_prompt", False),
        lambda model: setattr(model, "truncate_dim", 8),
        lambda model: model.half(),
        lambda model: model.append(Dense(32, 32, module_input_name="token_embeddings")),
        lambda model: (model.insert(1, WordWeights(["d1"], {})), setattr(model[2], "pooling_mode", "cls")),
        lambda model: model.append(Dropout()),
        lambda model: setattr(model[0].auto_model.config, "hidden_act", "relu"),
        lambda model: setattr(model[0].auto_model.config, "is_decoder", True),
        lambda model: setattr(model.tokenizer, "padding_side", "left"),
        lambda model: add_adapter(model, rank=2, seed=0),
        lambda model: setattr(model[0].auto_model, "__class__", type("Other", (type(model[0].auto_model),), {})),
    ],
    ids=[
        "pooling",
        "prompt",
        "truncated",
        "half",
        "dense",
        "weights",
        "dropout",
        "relu",
        "decoder",
        "left",
        "adapter",
        "other",
    ],
)
def test_other_models_are_not_packed(model: SentenceTransformer, change: Callable[[SentenceTransformer], object]):
    change(model)
    assert not packs(model)
