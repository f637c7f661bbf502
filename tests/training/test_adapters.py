import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from bench.decoder import ARCHITECTURES
from heal_tasks.core.errors import InputError
from heal_tasks.training.adapters import add_adapter, nf4_config
from heal_tasks.training.checkpoints import load_adapter, save_weights
from heal_tasks.training.encoder import encode, load_encoder
from heal_tasks.training.trainer import TrainingConfig, train_encoder
from tests.training.decoders import tiny_decoder
from tests.training.runs import stop

CONFIG = TrainingConfig(
    max_steps=6,
    batch_size=8,
    learning_rate=5e-3,
    max_tokens=16,
    eval_steps=3,
    device="cpu",
    dtype="float32",
    adapter="lora",
)


@pytest.fixture(scope="module", params=["bert", *ARCHITECTURES])
def base(request, tiny_encoder, tmp_path_factory) -> Path:
    if request.param == "bert":
        return tiny_encoder
    return tiny_decoder(request.param, tmp_path_factory.mktemp(request.param))


def train(base, planted, folder, config=CONFIG, progress=lambda done, total, message="": None):
    data, validation = planted
    return train_encoder(
        base, data, validation, config, work_dir=folder / "work", output_dir=folder / "model",
        data_fingerprint="planted", progress=progress,
    )  # fmt: skip


def trained_names(model: SentenceTransformer) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_new_adapter_changes_nothing_and_is_all_that_trains(base):
    model, texts = load_encoder(base, device="cpu"), ["q1 q2", "d3", "n4 n5 d1 d2"]
    plain = encode(model, texts)
    add_adapter(model, rank=4, seed=0)
    np.testing.assert_allclose(encode(model, texts), plain, atol=1e-6)
    names = trained_names(model)
    assert names
    assert all("lora_" in name for name in names)
    assert not any("pooler" in name for name in names)
    shapes = [parameter.shape for name, parameter in model.named_parameters() if "lora_A" in name]
    assert {shape[0] for shape in shapes} == {4}


def test_merged_weights_are_plain_and_give_the_adapters_vectors(base, tmp_path):
    model, texts = load_encoder(base, device="cpu"), ["q1 q2", "d3", "n4 n5 d1 d2"]
    before = encode(model, texts)
    add_adapter(model, rank=4, seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted = encode(model, texts)
    assert np.abs(adapted - before).max() > 0.05
    save_weights(model, tmp_path / "adapter", adapter=True)
    again = load_encoder(base, device="cpu")
    add_adapter(again, rank=4, seed=0)
    load_adapter(again, tmp_path / "adapter")
    again[0].model = again[0].model.merge_and_unload()
    again.save_pretrained(str(tmp_path / "merged"), create_model_card=False)
    merged = load_encoder(tmp_path / "merged", device="cpu")
    np.testing.assert_allclose(encode(merged, texts), adapted, atol=2e-6)
    stored, plain = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", base))
    assert stored.keys() == plain.keys()


def test_lora_trains_and_saves_the_validated_model(base, planted, tmp_path):
    result = train(base, planted, tmp_path)
    start, end = load_file(base / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert start.keys() == end.keys()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed
    assert all(start[name].ndim == 2 and "embed" not in name and "pooler" not in name for name in changed)
    validation = planted[1]
    model = load_encoder(result.model_dir, device="cpu")
    scores = encode(model, validation.queries) @ encode(model, validation.documents).T
    ranks = [int((row > row[found[0]]).sum()) for row, found in zip(scores, validation.positives, strict=True)]
    ndcg = np.mean([1 / np.log2(rank + 2) if rank < 10 else 0 for rank in ranks])
    assert ndcg == pytest.approx(result.best_score, abs=5e-3)
    checkpoint = tmp_path / "work" / f"checkpoint-{result.best_step}"
    assert not (checkpoint / "model.safetensors").exists()


def test_a_stopped_lora_training_resumes_to_the_same_weights(tiny_encoder, planted, tmp_path):
    whole = train(tiny_encoder, planted, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_encoder, planted, tmp_path / "stopped", progress=stop)
    resumed = train(tiny_encoder, planted, tmp_path / "stopped")
    assert resumed.resumed_from_step == 3
    expected, actual = (load_file(item.model_dir / "model.safetensors") for item in (whole, resumed))
    assert max((expected[name] - actual[name]).abs().max().item() for name in expected) <= 1e-6


def test_qlora_without_its_device_or_package_is_refused(tiny_encoder, planted, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="qlora needs a CUDA device, and this is 'cpu'; use lora"):
        train(tiny_encoder, planted, tmp_path, dataclasses.replace(CONFIG, adapter="qlora"))
    monkeypatch.setattr("heal_tasks.training.adapters.find_spec", lambda _: None)
    with pytest.raises(InputError, match="needs the package bitsandbytes; install"):
        nf4_config("cuda:0")


def test_quantised_weights_are_nf4_with_bfloat16_arithmetic(monkeypatch):
    monkeypatch.setattr("heal_tasks.training.adapters.find_spec", lambda _: object())
    config = nf4_config("cuda:0")
    assert config.load_in_4bit
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
