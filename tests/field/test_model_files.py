"""Model files are those that the vectors were made with, and lie in the model's folder."""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from heal_tasks.client import Client
from heal_tasks.client.encoders import query_encoder
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import InputError, StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.runner import Step
from heal_tasks.steps.vectors.filling import fill_spaces
from heal_tasks.store.db import Connection
from heal_tasks.training.encoder import Encoder, model_sha256
from tests.store.sample_store import SampleStore
from tests.training.conftest import tiny_encoder  # noqa: F401 - a fixture

DIMS = 32


@pytest.fixture
def model(tiny_encoder: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A copy of an encoder."""
    shutil.copytree(tiny_encoder, tmp_path / "model")
    return tmp_path / "model"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_an_encoder_whose_files_have_changed_is_refused_wherever_it_is_loaded(
    model: Path, auto: Connection, settings: Settings
) -> None:
    artifacts = artifact_store(settings)
    with artifacts.writing("models/m") as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
    uri, store = artifacts.uri("models/m"), SampleStore(auto)
    store.load_many(3)
    space = store.spaces.ensure(uri, model_sha256(uri), DIMS)
    step = Step("fill", lambda context: fill_spaces(context, [space]), None)
    assert step.run(settings, Manifest(run_id="r1")).counts["chunks"] == 3
    made = store.generations.create(run_id="r", space=space)
    store.generations.create_tables(made)
    store.publish(made, lexicon_weight=0.0, words_weight=0.1)
    url, load = settings.require_database_url(), functools.partial(query_encoder, settings=settings)
    with Client(url, encoder=load) as client:
        assert len(client.hybrid_search("text 1", 3)) == 3
    flip(Path(uri) / "model.safetensors")
    with pytest.raises(StepError, match=r"have been changed since its vectors were made \(sha256 .*put the files back"):
        Client(url, encoder=load).hybrid_search("text 1")
    store.load_many(4)
    with pytest.raises(StepError, match="have been changed") as raised:
        step.run(settings, Manifest(run_id="r2"))
    assert uri in str(raised.value)


def test_every_file_that_decides_vectors_counts(model: Path) -> None:
    sha256 = model_sha256(model)
    assert Encoder(model, device="cpu", sha256=sha256).encode(["q1"]).shape == (1, DIMS)
    for file in sorted(path for path in model.rglob("*") if path.suffix in (".safetensors", ".json", ".txt")):
        kept = file.read_bytes()
        file.write_bytes(kept + b"\n")
        with pytest.raises((StepError, InputError)):
            Encoder(model, device="cpu", sha256=sha256)
        file.write_bytes(kept)
    Encoder(model, device="cpu", sha256=sha256)


def link(model: Path, outside: Path) -> None:
    shutil.copy(model / "model.safetensors", outside)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(outside)


def folder_link(model: Path, outside: Path) -> None:
    outside.mkdir()
    (model / "more").symlink_to(outside)


def pipe(model: Path, outside: Path) -> None:
    del outside
    os.mkfifo(model / "more.json")


def module_outside(model: Path, outside: Path) -> None:
    shutil.copytree(model / "1_Pooling", outside)
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["path"] = f"../{outside.name}"
    (model / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("change", [link, folder_link, pipe, module_outside])
def test_a_model_folder_holds_its_own_files(model: Path, change: Callable[[Path, Path], None]) -> None:
    change(model, model.parent / "outside")
    with pytest.raises(InputError, match=r"leads out of the model's folder|no regular file|which is outside"):
        Encoder(model, device="cpu")
    if change is not module_outside:
        with pytest.raises(InputError):
            resolve_model(str(model))


def test_the_cache_of_a_hub_keeps_files_beside_its_snapshots(model: Path, tmp_path: Path) -> None:
    cached = tmp_path / "models--org--m"
    snapshot = cached / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(model, snapshot)
    (cached / "blobs").mkdir()
    shutil.move(snapshot / "model.safetensors", cached / "blobs" / "x")
    (snapshot / "model.safetensors").symlink_to("../../blobs/x")
    assert Encoder(snapshot, device="cpu", sha256=model_sha256(model)).encode(["q1"]).shape == (1, DIMS)
