"""What only a GPU shows: bfloat16 training, memory that really runs out, 4-bit weights. Skipped without one."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.decoder import ARCHITECTURES
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.training.data import TrainingData, ValidationSet
from heal_tasks.training.encoder import encode, load_encoder
from heal_tasks.training.trainer import TrainingConfig
from tests.training.decoders import tiny_decoder
from tests.training.pairs import unknown
from tests.training.runs import CONFIG, furthest, run, stop, weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

ON_GPU = dataclasses.replace(CONFIG, device="cuda")
QLORA = dataclasses.replace(ON_GPU, dtype="auto", adapter="qlora", heal_weight=0.0, learning_rate=5e-3)
LONG = [f"{number} " + "aspirin lowers the risk of stroke in older patients " * 40 for number in range(256)]


@pytest.fixture
def little_memory(request):
    """So many MiB for torch, and no more."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(request.param * 2**20 / whole)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_training_in_bfloat16_learns_and_the_model_serves_on_a_cpu(tiny_encoder, planted, tmp_path):
    config = dataclasses.replace(ON_GPU, dtype="auto", max_steps=60, eval_steps=20, heal_weight=0.0)
    result, _ = run(tiny_encoder, planted, tmp_path, config)
    assert result.best_score > result.base_score + 0.1
    card = (result.model_dir / "card.json").read_text(encoding="utf-8")
    assert '"bf16": true' in card
    assert {tensor.dtype for tensor in weights(result).values()} == {torch.float32}
    texts = planted[1].documents[:8]
    on_cpu, on_gpu = (encode(load_encoder(result.model_dir, device=device), texts) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


def test_a_stopped_training_resumes_to_the_same_weights(tiny_encoder, planted, tmp_path):
    whole, _ = run(tiny_encoder, planted, tmp_path / "whole", ON_GPU)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_encoder, planted, tmp_path / "stopped", ON_GPU, progress=stop)
    resumed, _ = run(tiny_encoder, planted, tmp_path / "stopped", ON_GPU)
    assert resumed.resumed_from_step == 3
    # Sums over threads of a GPU are not always taken in one order.
    moved = furthest(weights(whole), load_file(tiny_encoder / "model.safetensors"))
    assert furthest(weights(whole), weights(resumed)) < 1e-2 * moved


@pytest.mark.parametrize("little_memory", [1500], indirect=True)
@pytest.mark.usefixtures("little_memory")
def test_a_step_that_does_not_fit_is_repeated_with_a_smaller_micro_batch(tmp_path):
    data = TrainingData(
        questions=[text[:200] for text in LONG], documents=LONG, document_ids=np.arange(256),
        labels=np.zeros((256, 1), dtype=np.int64), leaves=np.zeros(256, dtype=np.int32), negatives=[[] for _ in LONG],
        **unknown([[] for _ in LONG]),
    )  # fmt: skip
    validation = ValidationSet(
        LONG[:8], LONG[:32], [np.array([row]) for row in range(8)], np.arange(32), np.zeros((32, 1), np.int64)
    )
    config = TrainingConfig(max_steps=2, batch_size=128, max_tokens=256, eval_steps=2, device="cuda")
    result, reports = run(resolve_model(PACKAGED_MODEL), (data, validation), tmp_path, config)
    assert result.steps == 2
    assert any("out of memory, " in message for _, _, message in reports)
    assert all(math.isfinite(entry["loss"]) for entry in result.history)


@pytest.mark.parametrize("little_memory", [400], indirect=True)
@pytest.mark.usefixtures("little_memory")
def test_texts_that_do_not_fit_together_are_encoded_in_smaller_batches():
    folder, seen = resolve_model(PACKAGED_MODEL), []
    found = encode(
        load_encoder(folder, device="cuda"), LONG, batch_size=256, progress=lambda done, *_: seen.append(done)
    )
    assert seen[0] < 256
    np.testing.assert_allclose(found[:8], encode(load_encoder(folder, device="cpu"), LONG[:8]), atol=1e-4)


def test_bfloat16_vectors_are_those_of_float32():
    folder = resolve_model(PACKAGED_MODEL)
    whole = encode(load_encoder(folder, device="cuda"), LONG)
    half = encode(load_encoder(folder, device="cuda", dtype="auto"), LONG)
    assert (whole * half).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_qlora_trains_beside_4_bit_weights_and_publishes_plain_ones(architecture, planted, tmp_path):
    pytest.importorskip("bitsandbytes", reason="requirements-qlora.txt is not installed")
    base = tiny_decoder(architecture, tmp_path / "base")
    quantised = load_encoder(base, device="cuda", quantised=True)
    kinds = {type(module).__name__ for module in quantised.modules()}
    assert "Linear4bit" in kinds
    assert "Linear" not in kinds
    result, _ = run(base, planted, tmp_path, QLORA)
    start, end = load_file(base / "model.safetensors"), weights(result)
    assert start.keys() == end.keys()
    assert {tensor.dtype for tensor in end.values()} == {torch.float32}
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed
    assert not any("embed" in name or "norm" in name for name in changed)
    vectors = encode(load_encoder(result.model_dir, device="cpu"), planted[1].documents[:4])
    assert np.isfinite(vectors).all()
