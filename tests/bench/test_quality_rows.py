"""Rows of bench.quality and bench.maps: none is silently without effect, and cut text has as many tokens as its map."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import quality
from bench.maps import cut_like, texts_of, tokenizer_of
from bench.quality import Deployment
from bench.quality_rows import TRAINED, Row, leaf_level, same_as
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import InputError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.core.settings import Settings, load_settings


@pytest.mark.parametrize("name", TRAINED)
def test_every_row_changes_settings_that_exist(name: str, tmp_path: Path) -> None:
    settings = load_settings(var_dir=tmp_path)
    applied = TRAINED[name].applied(settings)
    assert {field: getattr(applied, field) for field in TRAINED[name].settings} == TRAINED[name].settings


def test_a_row_with_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="map_rat, which are no settings"):
        Row({"map_rat": 0.3}).applied(load_settings(var_dir=tmp_path))


def test_rows_with_the_same_value_for_every_query_are_named() -> None:
    values = {"ndcg@10": np.array([0.1, 0.5])}
    assert same_as(values, {"base": {"ndcg@10": np.array([0.1, 0.6])}}) == ""
    assert same_as(values, {"own": {"ndcg@10": np.array([0.1, 0.5])}}) == "every query as in own"


class Steps:
    """Stands in for the steps: mine stores one row, and shows so many maps."""

    def __init__(self, map_chunks: int) -> None:
        self.map_chunks, self.ran = map_chunks, list[str]()

    def __call__(self, name: str) -> "Steps":
        self.ran.append(name)
        return self

    def run(self, settings: Settings, manifest: Manifest) -> Manifest:
        artifacts = artifact_store(settings)
        with artifacts.writing("training_sets/one") as folder:
            (folder / "train.jsonl").write_text(json.dumps({"question": "q\u2028", "path": [3]}, ensure_ascii=False))
        refs: dict[str, int | str] = {"training_set_uri": artifacts.uri("training_sets/one")}
        return manifest.next("mine", refs=refs, counts={"map_chunks": self.map_chunks}, note="n")


def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, map_chunks: int) -> tuple[Deployment, Steps]:
    made, steps = Deployment.__new__(Deployment), Steps(map_chunks)
    made.settings, made.manifest = load_settings(var_dir=tmp_path), Manifest(run_id="r")
    monkeypatch.setattr(quality, "load_step", steps)
    return made, steps


def test_a_row_of_maps_writes_them_first_and_is_refused_where_none_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, steps = deployment(tmp_path, monkeypatch, map_chunks=0)
    assert made.training_rows(made.mine("own", Row({}))) == [{"question": "q\u2028", "path": [3]}]
    assert steps.ran == ["mine"]
    with pytest.raises(InputError, match="row maps shows no entity map"):
        made.mine("maps", Row({"map_rate": 0.3}))
    made, steps = deployment(tmp_path, monkeypatch, map_chunks=2)
    made.mine("maps", Row({"map_rate": 0.3}))
    assert steps.ran == ["map_entities", "mine"]


def test_a_change_that_leaves_the_training_set_as_it_is_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = deployment(tmp_path, monkeypatch, map_chunks=0)
    with pytest.raises(InputError, match="row supcon leaves the training set as it is"):
        made.mine("supcon", Row({}, leaf_level))  # one level deep already


def test_cut_text_has_the_tokens_of_its_map_and_no_other_text_changes() -> None:
    tokenizer = tokenizer_of(resolve_model(PACKAGED_MODEL))
    text = "Adversaries may abuse scheduled tasks, Registry keys and mshta.exe to execute code in Windows domains."
    plain: list[dict[str, Any]] = [
        {"question": "Who abuses tasks?", "document": text, "negatives": [{"document": text}, {"document": "short"}]}
    ]
    maps: list[dict[str, Any]] = [
        {
            "question": "Who abuses tasks?", "document": "Adversaries | abuse mshta.exe",
            "negatives": [{"document": text}, {"document": "a map that is longer"}],
        }
    ]  # fmt: skip
    size = len(tokenizer.encode("Adversaries | abuse mshta.exe").ids)
    cut_like(maps, plain, tokenizer)
    question, document, kept, short = texts_of(maps)
    assert (question, kept, short) == ("Who abuses tasks?", text, "short")
    assert text.startswith(document)
    assert len(tokenizer.encode(document).ids) == size < len(tokenizer.encode(text).ids)
