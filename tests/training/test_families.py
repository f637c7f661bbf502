"""Models of the families that people choose: vectors, training and export, against plain sentence-transformers."""

import dataclasses
import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router

from heal_tasks.core.errors import InputError, StepError
from heal_tasks.core.models import ModelOptions
from heal_tasks.training.encoder import encode, load_encoder, model_sha256
from heal_tasks.training.packed import packs
from heal_tasks.training.validation import Validation
from tests.training.families import FAMILIES, MAX_TOKENS, SEARCH, write_family
from tests.training.runs import CONFIG, furthest, run, weights

TEXTS = ["", "d1", "Q1 q2 q3", "n1 n2 n3 n4 n5 n6 n7", "d3 d2 d1", "d4 " * 100, "q9 n3 " * 12]
E5 = ModelOptions(0, "query : ", "passage : ")
PROMPTS = {
    "passage prompt": ("query : ", "passage : "),
    "default prompt": (SEARCH, SEARCH),
    "embeddinggemma": ("search query : ", "document : "),
    "arctic l v2": ("query : ", ""),
} | dict.fromkeys(["arctic", "leaf", "qwen3"], (SEARCH, ""))
"""What a family's configuration says; none for the others."""
TRAINED = [name for name in FAMILIES if name not in ("e5", "bge", "multilingual e5", "bge-m3")]
"""Families to train: the others have nothing that these have not, too."""


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(family, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def e5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("e5", tmp_path_factory.mktemp("e5"))


@lru_cache(maxsize=2)
def plain(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


def reference(folder: Path, prompt: str, texts: list[str] = TEXTS, dimensions: int | None = None) -> np.ndarray:
    """Unit vectors by sentence-transformers alone, a text at a time, the prompt written before it."""
    found = np.stack([plain(folder).encode(prompt + text, prompt="", show_progress_bar=False) for text in texts])
    return found[:, :dimensions] / np.linalg.norm(found[:, :dimensions], axis=1, keepdims=True)


def test_vectors_are_those_of_plain_sentence_transformers(family: str, folder: Path) -> None:
    model = load_encoder(folder, device="cpu")
    assert model.max_seq_length == MAX_TOKENS
    assert model.dtype == torch.float32
    assert packs(model) == FAMILIES[family].packed
    query, document = PROMPTS.get(family, ("", ""))
    np.testing.assert_allclose(encode(model, TEXTS, role="query"), reference(folder, query), atol=1e-5)
    np.testing.assert_allclose(encode(model, TEXTS), reference(folder, document), atol=1e-5)


def test_prompts_and_dimensions_by_setting(folder: Path) -> None:
    model = load_encoder(folder, device="cpu", options=dataclasses.replace(E5, dimensions=12))
    assert model.get_embedding_dimension() == 12
    np.testing.assert_allclose(encode(model, TEXTS, role="query"), reference(folder, "query : ", TEXTS, 12), atol=1e-5)
    np.testing.assert_allclose(encode(model, TEXTS), reference(folder, "passage : ", TEXTS, 12), atol=1e-5)


@pytest.mark.parametrize("family", TRAINED, indirect=True)
def test_a_trained_model_has_its_prompts_and_dimensions_in_its_own_files(
    family: str, folder: Path, planted: Any, tmp_path: Path
) -> None:
    # Adapters for some, a linear layer of its own, a decoder and rotary positions among these.
    adapter: Any = "lora" if family in ("leaf", "qwen3", "granite r2", "nomic", "new gte", "mpnet") else "none"
    options = ModelOptions(12, "query : ")
    config = dataclasses.replace(
        CONFIG, max_steps=2, eval_steps=2, adapter=adapter, idf_power=0.25, base_share=0.5, base_weight=1.0
    )
    result, _ = run(folder, planted, tmp_path, config, options=options)
    trained, texts = load_encoder(result.model_dir, device="cpu"), TEXTS[1:]
    before = load_encoder(folder, device="cpu", options=options)
    half = load_encoder(result.model_dir, device="cpu", dtype="bfloat16")
    assert trained.get_embedding_dimension() == 12
    assert (trained.prompts["query"], trained.prompts["document"]) == ("query : ", PROMPTS.get(family, ("", ""))[1])
    for role in ("query", "document"):
        vectors = encode(trained, texts, role=role)  # type: ignore[arg-type]
        expected = reference(result.model_dir, trained.prompts[role], texts)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert (encode(half, texts, role=role) * vectors).sum(axis=1).min() > 0.98  # type: ignore[arg-type]
        assert np.abs(vectors - encode(before, texts, role=role)).max() > 1e-4  # type: ignore[arg-type]


def test_training_sees_the_prompts(e5: Path, planted: Any, tmp_path: Path) -> None:
    data, validation = planted
    config = dataclasses.replace(CONFIG, max_steps=3, max_tokens=24, base_weight=0.0)
    by_setting, _ = run(e5, planted, tmp_path / "set", config, options=E5)
    written = (
        dataclasses.replace(
            data,
            questions=[f"query : {text}" for text in data.questions],
            documents=[f"passage : {text}" for text in data.documents],
            negatives=[[f"passage : {text}" for text in texts] for texts in data.negatives],
        ),
        dataclasses.replace(
            validation,
            queries=[f"query : {text}" for text in validation.queries],
            documents=[f"passage : {text}" for text in validation.documents],
        ),
    )
    by_hand, _ = run(e5, written, tmp_path / "hand", config)
    assert furthest(weights(by_setting), weights(by_hand)) < 1e-6
    assert by_setting.base_score == by_hand.base_score
    without, _ = run(e5, planted, tmp_path / "none", config)
    assert furthest(weights(by_setting), weights(without)) > 1e-3


def test_validation_and_loss_are_of_the_dimensions_that_are_served(e5: Path, planted: Any, tmp_path: Path) -> None:
    cut, _ = run(e5, planted, tmp_path / "cut", CONFIG, options=ModelOptions(8))
    whole, _ = run(e5, planted, tmp_path / "whole", CONFIG)
    assert cut.base_score != whole.base_score
    assert furthest(weights(cut), weights(whole)) > 1e-3
    kept = load_file(cut.model_dir / "2_Dense" / "model.safetensors")["linear.weight"]
    torch.testing.assert_close(kept, torch.eye(8, 32))
    found = Validation(planted[1], CONFIG.metric, 1, lambda done, total, message="": None)
    assert found(load_encoder(cut.model_dir, device="cpu"))[CONFIG.metric] == pytest.approx(cut.best_score, abs=1e-6)


def test_options_are_part_of_the_hash_that_is_checked(e5: Path) -> None:
    sha256 = E5.identity(model_sha256(e5))
    load_encoder(e5, device="cpu", options=E5, sha256=sha256)
    for other in (ModelOptions(), ModelOptions(8, E5.query_prompt, E5.document_prompt)):
        with pytest.raises(StepError, match="have been changed since its vectors were made"):
            load_encoder(e5, device="cpu", options=other, sha256=sha256)


def test_more_dimensions_than_the_model_has_are_refused(e5: Path) -> None:
    assert load_encoder(e5, device="cpu", options=ModelOptions(32)).get_embedding_dimension() == 32
    with pytest.raises(InputError, match=r"HEAL_DIMENSIONS=33 is more than the 32 of the model in .*; lower it"):
        load_encoder(e5, device="cpu", options=ModelOptions(33))


def test_code_of_a_model_is_refused_before_it_is_run(e5: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(e5, tmp_path / "model"))
    (model / "canary.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n\nclass Pooling: pass\n")
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["type"] = "canary.Pooling"
    (model / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match=r"asks for its own code \(class 'canary.Pooling' in modules.json\)"):
        load_encoder(model, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_an_encoder_each_for_questions_and_documents_is_refused(e5: Path, tmp_path: Path) -> None:
    parts = SentenceTransformer(str(e5), device="cpu")
    router = Router.for_query_document([parts[0], parts[1]], [parts[0], parts[1]])
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(str(tmp_path / "model"))
    with pytest.raises(InputError, match=r"has an encoder each for questions and documents \(Router\)"):
        load_encoder(tmp_path / "model", device="cpu")
