"""Topic trees and training sets that are damaged are refused with a sentence, and nothing in them is unpickled."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.steps.vectors import training_set
from heal_tasks.topics.tree import FORMAT, TopicTree


class Canary:
    """Run by whoever unpickles it."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.touched),)


def damages(folder: Path) -> dict[str, bytes]:
    """Contents that no file of ours has."""
    canary = pickle.dumps(Canary(folder / "touched"))
    np.save(folder / "objects.npy", np.array([Canary(folder / "touched")], dtype=object), allow_pickle=True)
    return {
        "a pickle": canary,
        "an array of objects": (folder / "objects.npy").read_bytes(),
        "empty": b"",
        "a list": b"[1]",
        "other keys": json.dumps({"format": FORMAT, "nodes": [{"x": 1}]}).encode(),
        "a number": b"7",
        "no text": b"\xff\xfe\x00",
        "half": b'{"format": 1, "nodes": [',
    }


@pytest.mark.parametrize("name", ["tree.json", "arrays.npz"])
def test_a_damaged_tree(tmp_path: Path, name: str) -> None:
    (tmp_path / "tree.json").write_text(json.dumps({"format": FORMAT, "nodes": [], "factors": []}))
    np.savez(tmp_path / "arrays.npz", leaves=np.zeros(1))
    for content in damages(tmp_path).values():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"topic tree in .* (is damaged .*delete that folder|has format)"):
            TopicTree.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match="is missing; build the topics again"):
        TopicTree.load(tmp_path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", [training_set.TRAIN, training_set.VALIDATION, training_set.VECTORS])
def test_a_damaged_training_set(tmp_path: Path, name: str) -> None:
    row = {
        "question": "q",
        "question_id": 1,
        "document": "d",
        "document_id": 2,
        "leaf": 0,
        "path": [1],
        "negatives": [],
    }
    held_out = {"queries": [], "documents": [], "positives": [], "document_ids": [], "paths": []}
    good = {
        training_set.TRAIN: json.dumps({**row, "negatives": []}) + "\n",
        training_set.VALIDATION: json.dumps(held_out),
    }
    for file, text in good.items():
        (tmp_path / file).write_text(text)
    np.savez(tmp_path / training_set.VECTORS)
    data, _ = training_set.load(tmp_path)
    assert data.questions == ["q"]
    for what, content in damages(tmp_path).items():
        if name == training_set.TRAIN and what == "empty":  # a set without questions, which trains nothing
            continue
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"the training set in .* is damaged .* run step mine again"):
            training_set.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match="is damaged"):
        training_set.load(tmp_path)
    assert not (tmp_path / "touched").exists()
