from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from heal_tasks.training.encoder import load_encoder
from heal_tasks.training.packed import PackedBert, packs

# Lengths from nothing to more than the window, some of them equal.
TEXTS = ["", "d1", "q2", "q1 q2 q3", "n1 n2 n3 n4 n5 n6 n7", "d3 d2 d1", "d4 " * 100, "n5 " * 100, "q9 n3 " * 12]


@pytest.fixture
def model(tiny_encoder: Path) -> SentenceTransformer:
    """Every weight random: a fresh model's biases are nought and would hide what is done with them."""
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


def test_a_model_in_training_is_used_as_it_is_now(model: SentenceTransformer):
    packed = PackedBert(model, 100)
    before = packed.encode(TEXTS)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    np.testing.assert_allclose(unit(packed.encode(TEXTS)), by_the_model(model, TEXTS), atol=1e-6)
    assert not np.allclose(unit(packed.encode(TEXTS)), unit(before), atol=1e-3)


def test_a_plain_bert_is_packed(model: SentenceTransformer):
    assert packs(model)
    del model[2]
    assert packs(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model[1], "pooling_mode", "max"),
        lambda model: model.prompts.update(query="query: "),
        lambda model: setattr(model, "truncate_dim", 8),
        lambda model: model.half(),
        lambda model: model.append(Dense(32, 32)),
        lambda model: setattr(model[0].auto_model.config, "hidden_act", "relu"),
        lambda model: setattr(model[0].auto_model.config, "is_decoder", True),
        lambda model: setattr(model.tokenizer, "padding_side", "left"),
        lambda model: model.add_adapter(LoraConfig(r=2, target_modules=["query"])),
        lambda model: setattr(model[0].auto_model, "__class__", type("Other", (type(model[0].auto_model),), {})),
    ],
    ids=["pooling", "prompt", "truncated", "half", "dense", "relu", "decoder", "left", "adapter", "other"],
)
def test_what_another_pass_would_get_wrong_is_left_to_the_model(
    model: SentenceTransformer, change: Callable[[SentenceTransformer], object]
):
    change(model)
    assert not packs(model)
