"""Models by name: options in the URI, prompts of families, and refusal of models with code of their own."""

import json
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.core.models import (
    NO_OPTIONS,
    ModelOptions,
    api_model,
    resolve_model,
    split_uri,
    with_options,
)
from heal_tasks.core.prompts import missing_prompts, own_prompt, prompts_in

BGE = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    "model",
    ["intfloat/e5-small-v2", "/models/my e5?", "openai:x", "/a?b=c", "/a?dimensions=x", "/a?", "s3://b/models/k"],
)
@pytest.mark.parametrize(
    "options",
    [
        NO_OPTIONS,
        ModelOptions(256),
        ModelOptions(0, "query: ", ""),
        ModelOptions(3, "a?b&c=d%20 é\n", "für: "),
    ],
)
def test_a_uri_has_model_and_options(model: str, options: ModelOptions) -> None:
    uri = with_options(model, options)
    assert split_uri(uri) == (model, options)
    assert (uri == model) == (options == NO_OPTIONS)
    assert uri.isprintable()
    assert api_model(uri) == ("x" if model == "openai:x" else "")


def test_options_are_part_of_the_identity() -> None:
    options = [NO_OPTIONS, ModelOptions(8), ModelOptions(0, "a"), ModelOptions(0, "", "a"), ModelOptions(0, None, "a")]
    assert len({item.identity("abc") for item in options}) == 5
    assert NO_OPTIONS.identity("abc") == "abc"


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({}, None, ("", "")),
        ({"query": "q: ", "document": "d: ", "passage": "p: "}, None, ("q: ", "d: ")),
        ({"query": "q: ", "document": "", "corpus": "c: "}, None, ("q: ", "c: ")),
        ({"query": "q: "}, "query", ("q: ", "")),
        ({"search": "s: "}, "search", ("s: ", "s: ")),
        ({"search": "s: ", "query": "q: "}, "search", ("q: ", "s: ")),
        ({"query": None}, "gone", ("", "")),
    ],
)
def test_prompts_of_a_configuration(
    tmp_path: Path, prompts: dict[str, Any], default: str | None, expected: tuple[str, str]
) -> None:
    assert (own_prompt(prompts, default, "query"), own_prompt(prompts, default, "document")) == expected
    config = {"prompts": prompts, "default_prompt_name": default}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(config))
    assert prompts_in(tmp_path) == ModelOptions(0, *expected)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("intfloat/e5-small-v2", ("query: ", "passage: ")),
        ("/models/multilingual-e5-base", ("query: ", "passage: ")),
        ("/cache/models--intfloat--e5-base/snapshots/0123", ("query: ", "passage: ")),
        ("BAAI/bge-small-en-v1.5", (BGE, "")),
        ("BAAI/bge-m3", ("", "")),
        ("openai:nomic-embed-text", ("search_query: ", "search_document: ")),
        ("Snowflake/snowflake-arctic-embed-s", (BGE, "")),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", ("query: ", "")),
        ("MongoDB/mdbr-leaf-ir", (BGE, "")),
        ("google/embeddinggemma-300m", ("task: search result | query: ", "title: none | text: ")),
        ("thenlper/gte-small", ("", "")),
        ("ibm-granite/granite-embedding-small-english-r2", ("", "")),
        ("all-MiniLM-L6-v2", ("", "")),
    ],
)
def test_prompts_of_families_by_name(tmp_path: Path, model: str, expected: tuple[str, str]) -> None:
    said = missing_prompts(model, NO_OPTIONS, tmp_path)
    for setting, prompt in zip(("HEAL_QUERY_PROMPT", "HEAL_DOCUMENT_PROMPT"), expected, strict=True):
        assert (f"{setting}={json.dumps(prompt)}" in said) == bool(prompt)
    assert missing_prompts(model, ModelOptions(0, *expected), tmp_path) == ""
    (tmp_path / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": dict(zip(("query", "document"), expected, strict=True))})
    )
    assert missing_prompts(model, NO_OPTIONS, tmp_path) == ""


def test_a_lost_blank_is_named_and_another_prompt_is_meant(tmp_path: Path) -> None:
    said = missing_prompts("intfloat/e5-small-v2", ModelOptions(0, "query:", "passage: "), tmp_path)
    assert said == (
        "intfloat/e5-small-v2 was trained with 'query: ' before every query; set HEAL_QUERY_PROMPT=\"query: \""
    )
    assert missing_prompts("intfloat/e5-small-v2", ModelOptions(0, "law: ", "law: "), tmp_path) == ""
    assert missing_prompts("openai:e5-small", NO_OPTIONS, None).endswith(", unless it adds them itself")


OWN_CODE = {
    "config.json": {"model_type": "new", "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"}},
    "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["tokenization.Mine", None]}},
    "0_Transformer/config.json": {"auto_map": {"AutoModel": "modeling.Mine"}},
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "", "type": "canary.Pooling"},
    ],
    "router_config.json": {"types": {"query_0": "sentence_transformers.models.Pooling", "document_0": "canary.Mine"}},
    "2_Dense/config.json": {"in_features": 8, "activation_function": "canary.activate"},
}


@pytest.mark.parametrize("name", OWN_CODE)
def test_a_model_that_asks_for_its_own_code_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = tmp_path / "model" / name
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(OWN_CODE[name]))
    with pytest.raises(InputError, match=rf"model asks for its own code \(.*{file.name}\); code of a model is never"):
        resolve_model(str(tmp_path / "model"))
    fetched = list[Any]()

    def snapshot(model: str, allow_patterns: list[str]) -> str:
        fetched.append(allow_patterns)
        return str(tmp_path / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(InputError, match=r"^some/model asks for its own code"):
        resolve_model("some/model")
    assert fetched == [["*.json"]]


def test_what_is_installed_is_no_code_of_a_model(tmp_path: Path) -> None:
    files = {
        "config.json": {"model_type": "bert", "activation_function": "swiglu", "auto_map": {}},
        "modules.json": [{"path": "", "type": "sentence_transformers.models.Transformer"}],
        "2_Dense/config.json": {"activation_function": "torch.nn.modules.linear.Identity"},
        "tokenizer_config.json": [],
    }
    for name, config in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text("{")
    assert resolve_model(str(tmp_path)) == str(tmp_path)
