import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import WordWeights

from heal_tasks.training.encoder import encode, load_encoder
from heal_tasks.training.packed import PackedBert, packs
from heal_tasks.training.pooling import idf_weights, weight_tokens
from heal_tasks.training.validation import Validation
from tests.training.runs import CONFIG, furthest, run, stop, weights

CORPUS = ["d1 d2 d1", "d1 d3", "d1 d2 n4", "d1"]
TEXTS = ["d1 d2 d3", "d2 d2 n4 q7", "d1", "q1 q2", ""]
WEIGHED = dataclasses.replace(CONFIG, idf_power=0.5)


def token_ids(model: SentenceTransformer, text: str) -> list[int]:
    return model.tokenizer(text)["input_ids"]


@given(st.lists(st.lists(st.integers(0, 7), max_size=6), max_size=8), st.sampled_from([0.0, 0.25, 1.0]))
def test_weights_are_those_of_the_formula(documents, power):
    found = idf_weights(documents, 9, [0, 8], power)
    words = [word for ids in documents for word in ids if word not in (0, 8)]

    def plain(word):
        having = sum(word in ids for ids in documents)
        return math.log(1 + (len(documents) - having + 0.5) / (having + 0.5)) ** power

    mean = sum(map(plain, words)) / len(words) if words else 1.0
    expected = [0.5 if word in (0, 8) else plain(word) / mean for word in range(9)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float32


def test_a_text_is_the_weighted_mean_of_its_tokens_wherever_the_model_is_loaded(tiny_encoder, tmp_path):
    plain, model = load_encoder(tiny_encoder, device="cpu"), load_encoder(tiny_encoder, device="cpu")
    weight_tokens(model, [*CORPUS, *CORPUS], 0.5)
    rarity = idf_weights([token_ids(plain, text) for text in CORPUS], len(plain.tokenizer), [0, 1, 2, 3, 4], 0.5)
    expected = []
    for text in TEXTS:
        states = plain.encode(text, output_value="token_embeddings", show_progress_bar=False)
        mean = (torch.from_numpy(rarity[token_ids(plain, text)])[:, None] * states).sum(0)
        expected.append(mean / mean.norm())
    model.save_pretrained(str(tmp_path), create_model_card=False)
    for loaded in (model, SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)):
        np.testing.assert_allclose(loaded.encode(TEXTS, show_progress_bar=False), torch.stack(expected), atol=1e-6)
    assert np.abs(encode(plain, TEXTS) - encode(model, TEXTS)).max() > 1e-3


def test_the_packed_pass_weights_tokens_too(tiny_encoder):
    model = load_encoder(tiny_encoder, device="cpu")
    weight_tokens(model, CORPUS, 0.5)
    assert packs(model)
    vectors = PackedBert(model, 12).encode(TEXTS)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, model.encode(TEXTS, show_progress_bar=False), atol=1e-6)


def change_pooling(model: SentenceTransformer) -> None:
    model[1].pooling_mode = "cls"


def weight_before(model: SentenceTransformer) -> None:
    weight_tokens(model, CORPUS, 1.0)


@pytest.mark.parametrize(("power", "change"), [(0.0, None), (0.5, change_pooling), (0.5, weight_before)])
def test_other_models_are_not_changed(tiny_encoder, power, change):
    model = load_encoder(tiny_encoder, device="cpu")
    if change:
        change(model)
    before = list(model)
    weight_tokens(model, CORPUS, power)
    assert list(model) == before


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_training_with_weighted_tokens_resumes_and_saves_the_validated_model(
    tiny_encoder, planted, tmp_path, adapter
):
    config = dataclasses.replace(WEIGHED, adapter=adapter, heal_weight=0.0 if adapter == "lora" else 0.1)
    whole, _ = run(tiny_encoder, planted, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_encoder, planted, tmp_path / "stopped", config, progress=stop)
    resumed, _ = run(tiny_encoder, planted, tmp_path / "stopped", config)
    assert resumed.resumed_from_step == 3
    assert furthest(weights(whole), weights(resumed)) <= 1e-6
    model = load_encoder(resumed.model_dir, device="cpu")
    validation = Validation(planted[1], config.metric, 1, lambda done, total, message="": None)
    assert validation(model)[config.metric] == pytest.approx(resumed.best_score, abs=1e-6)
    corpus = set(planted[0].documents)
    tokens = [token_ids(model, text) for text in corpus]
    given_, rarity = model[1], idf_weights(tokens, len(model.tokenizer), [0, 1, 2, 3, 4], 0.5)
    assert isinstance(given_, WordWeights)
    np.testing.assert_allclose(given_.emb_layer.weight.detach()[:, 0], rarity, rtol=1e-6)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_base_models_share_is_mixed_in(tiny_encoder, planted, tmp_path, adapter):
    config = dataclasses.replace(CONFIG, adapter=adapter, heal_weight=0.0)
    alone, _ = run(tiny_encoder, planted, tmp_path / "alone", config)
    mixed, _ = run(tiny_encoder, planted, tmp_path / "mixed", dataclasses.replace(config, base_share=0.75))
    base, ends = load_file(tiny_encoder / "model.safetensors"), weights(alone)
    expected = {name: 0.75 * base[name] + 0.25 * ends[name] for name in ends}
    assert furthest(base, ends) > 1e-3
    assert furthest(weights(mixed), expected) <= 1e-6
    assert (mixed.best_score, mixed.best_step) == (alone.best_score, alone.best_step)
