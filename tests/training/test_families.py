"""Models of the families that people choose: vectors, training and export, against plain sentence-transformers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from heal_tasks.core.models import ModelOptions
from heal_tasks.training.encoder import encode, load_encoder
from heal_tasks.training.packed import packs
from tests.training.families import FAMILIES, MAX_TOKENS, SEARCH, write_family
from tests.training.runs import CONFIG, run

TEXTS = ["", "d1", "Q1 q2 q3", "n1 n2 n3 n4 n5 n6 n7", "d3 d2 d1", "d4 " * 100, "q9 n3 " * 12]
E5 = ModelOptions(0, "query : ", "passage : ")
PROMPTS = {
    "passage prompt": ("query : ", "passage : "),
    "default prompt": (SEARCH, SEARCH),
    "embeddinggemma": ("search query : ", "document : "),
    "arctic l v2": ("query : ", ""),
} | dict.fromkeys(["arctic", "leaf", "qwen3"], (SEARCH, ""))
"""What a family's configuration says; none for the others."""


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(family, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def e5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("e5", tmp_path_factory.mktemp("e5"))


def reference(folder: Path, prompt: str, texts: list[str] = TEXTS, dimensions: int | None = None) -> np.ndarray:
    """Unit vectors by sentence-transformers alone, a text at a time, the prompt written before it."""
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    found = np.stack([model.encode(prompt + text, prompt="", show_progress_bar=False) for text in texts])[
        :, :dimensions
    ]
    return found / np.linalg.norm(found, axis=1, keepdims=True)


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


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_trained_model_keeps_prompts_and_dimensions_where_plain_sentence_transformers_loads_it(
    family: str, folder: Path, planted: Any, tmp_path: Path, adapter: Any
) -> None:
    options = ModelOptions(12, "query : ")
    config = dataclasses.replace(
        CONFIG, max_steps=2, eval_steps=2, adapter=adapter, idf_power=0.25, base_share=0.5, base_weight=1.0
    )
    result, _ = run(folder, planted, tmp_path, config, options=options)
    trained, texts = load_encoder(result.model_dir, device="cpu"), TEXTS[1:]
    before = load_encoder(folder, device="cpu", options=options)
    assert trained.get_embedding_dimension() == 12
    assert (trained.prompts["query"], trained.prompts["document"]) == ("query : ", PROMPTS.get(family, ("", ""))[1])
    for role in ("query", "document"):
        vectors = encode(trained, texts, role=role)  # type: ignore[arg-type]
        expected = reference(result.model_dir, trained.prompts[role], texts)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert np.abs(vectors - encode(before, texts, role=role)).max() > 1e-4  # type: ignore[arg-type]
