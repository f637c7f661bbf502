import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import heal_tasks.training.encoder as encoder_module
from heal_tasks.core import files
from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import HealError, InputError
from heal_tasks.training.encoder import (
    Encoder,
    encode,
    in_bf16,
    limited_threads,
    load_encoder,
    model_sha256,
)
from heal_tasks.training.packed import PackedBert

TEXTS = ["q1 q2 q3", "d1", "q1 q2 q3", "n1 n2 n3 n4 n5 n6 n7", "", "d2 d1"]


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model uses its own forward pass, as those do that ``packs`` refuses."""
    monkeypatch.setattr(encoder_module, "packs", lambda model: False)


@pytest.mark.parametrize("packed", [True, False])
def test_vectors_are_those_of_the_model_in_the_order_of_the_texts(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
):
    monkeypatch.setattr(encoder_module, "packs", lambda model: packed)
    model = load_encoder(tiny_encoder, device="cpu")
    expected = np.stack([model.encode(text, show_progress_bar=False) for text in TEXTS])
    vectors = encode(model, TEXTS, batch_size=2)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])


def test_a_packed_model_is_given_each_distinct_text_once(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch):
    batches, reports = [], []

    class Recording(PackedBert):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            batches.append(list(texts))
            return super().encode(texts)

    monkeypatch.setattr(encoder_module, "PackedBert", Recording)
    model = load_encoder(tiny_encoder, device="cpu")
    encode(model, TEXTS, batch_size=2, progress=lambda done, total, message="": reports.append((done, total)))
    assert batches == [["n1 n2 n3 n4 n5 n6 n7", "q1 q2 q3"], ["d2 d1", "d1"], [""]]
    assert reports == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.usefixtures("unpacked")
def test_each_distinct_text_is_computed_once_longest_first(tiny_encoder: Path):
    model, batches, reports = load_encoder(tiny_encoder, device="cpu"), [], []
    compute = model.encode_document

    def recording(texts: list[str], **kwargs):
        batches.append(list(texts))
        return compute(texts, **kwargs)

    model.encode_document = recording
    encode(model, TEXTS, batch_size=2, progress=lambda done, total, message="": reports.append((done, total)))
    computed = [text for batch in batches for text in batch]
    assert sorted(computed) == sorted(set(TEXTS))
    assert [len(text) for text in computed] == sorted(map(len, computed), reverse=True)
    assert reports == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.usefixtures("unpacked")
def test_a_processor_takes_fewer_long_texts_at_a_time(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch):
    # The encoder reads 48 tokens at most: a batch has 4 long texts, and as many short ones as are allowed.
    monkeypatch.setattr(encoder_module, "CPU_BATCH_TOKENS", 4 * 48)
    model, reports = load_encoder(tiny_encoder, device="cpu"), []
    texts = [f"d{number} " * 100 for number in range(6)] + [f"q{number}" for number in range(10)]
    encode(model, texts, batch_size=8, progress=lambda done, total, message="": reports.append(done))
    assert reports == [4, 8, 16]


@pytest.mark.usefixtures("unpacked")
def test_a_batch_that_does_not_fit_into_memory_is_halved(tiny_encoder: Path):
    model, sizes = load_encoder(tiny_encoder, device="cpu"), []
    expected, compute = encode(model, TEXTS), model.encode_document

    def with_little_memory(texts: list[str], **kwargs):
        sizes.append(len(texts))
        if len(texts) > 2:
            raise torch.OutOfMemoryError
        return compute(texts, **kwargs)

    model.encode_document = with_little_memory
    np.testing.assert_allclose(encode(model, TEXTS), expected, atol=1e-6)
    assert sizes == [5, 2, 2, 1]
    model.encode_document = lambda texts, **kwargs: (_ for _ in ()).throw(torch.OutOfMemoryError)
    with pytest.raises(torch.OutOfMemoryError):
        encode(model, TEXTS)


def test_no_texts_give_no_vectors(tiny_encoder: Path):
    assert Encoder(tiny_encoder, device="cpu").encode([]).shape == (0, 32)


def test_roles_choose_the_prompt(tiny_encoder: Path):
    model = load_encoder(tiny_encoder, device="cpu")
    model.prompts = {"query": "n1 ", "document": "n2 "}
    plain = load_encoder(tiny_encoder, device="cpu")
    np.testing.assert_allclose(encode(model, ["d1"], role="query"), encode(plain, ["n1 d1"]), atol=1e-6)
    np.testing.assert_allclose(encode(model, ["d1"]), encode(plain, ["n2 d1"]), atol=1e-6)


def test_bfloat16_vectors_have_unit_length_and_are_close(tiny_encoder: Path):
    exact = Encoder(tiny_encoder, device="cpu").encode(TEXTS)
    half = Encoder(tiny_encoder, device="cpu", dtype="bfloat16").encode(TEXTS)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert not np.array_equal(exact, half)
    assert (exact * half).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("packed", [True, False])
def test_float32_weights_can_compute_in_bfloat16(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool):
    monkeypatch.setattr(encoder_module, "packs", lambda model: packed)
    model = load_encoder(tiny_encoder, device="cpu")
    exact, half = encode(model, TEXTS), encode(model, TEXTS, bf16=True)
    assert not np.array_equal(exact, half)
    assert (exact * half).sum(axis=1).min() > 0.999
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_damaged_weights_are_named_before_a_vector_is_stored(tiny_encoder: Path):
    model = load_encoder(tiny_encoder, device="cpu")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(HealError, match="no usable vector for 'q1'"):
        encode(model, ["q1"])


def test_threads_are_limited_inside_and_restored_after_an_error(tiny_encoder: Path):
    before, seen = torch.get_num_threads(), []
    encoder = Encoder(tiny_encoder, device="cpu", threads=before + 1)
    encoder.encode(["d1"], progress=lambda done, total, message="": seen.append(torch.get_num_threads()))
    assert seen == [before + 1]
    with pytest.raises(KeyError), limited_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_identity_follows_what_changes_vectors_and_nothing_else(tiny_encoder: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_encoder, copy)
    for name in ("README.md", "card.json", "_complete.json"):
        (copy / name).write_text("{}")
    assert model_sha256(copy) == model_sha256(tiny_encoder)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert model_sha256(copy) != model_sha256(tiny_encoder)
    shutil.copy(tiny_encoder / "model.safetensors", copy)
    pooling = next(copy.glob("*Pooling/config.json"))
    pooling.write_text(pooling.read_text().replace("mean", "max"))
    assert model_sha256(copy) != model_sha256(tiny_encoder)


def test_identity_is_found_anew_after_a_change_that_hides_itself(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "SETTLED_S", -1.0)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_encoder, copy)
    weights = copy / "model.safetensors"
    before, times = model_sha256(copy), weights.stat()
    assert model_sha256(copy) == before
    time.sleep(0.05)  # a tick of the file system's clock
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert model_sha256(copy) != before


@pytest.mark.parametrize("function", [load_encoder, model_sha256])
def test_a_folder_without_an_encoder_is_refused(function, tmp_path: Path):
    with pytest.raises(InputError, match=r"modules\.json is missing"):
        function(tmp_path)


def test_devices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    with pytest.raises(InputError, match="torch sees 0 GPUs"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == ["cuda", "cpu", "cuda", "cuda:1"]
    with pytest.raises(InputError, match="torch sees 2 GPUs"):
        pick_device("cuda:2")
    for name in ("gpu", "cuda:", "cuda:x", "mps"):
        with pytest.raises(InputError, match="is unknown"):
            pick_device(name)


def test_bf16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch):
    for avx512, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda value=avx512: value)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda value=amx: value)
        assert in_bf16("auto", "cpu") is (avx512 or amx)
