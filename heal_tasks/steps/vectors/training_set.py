"""The training set as files: one JSON line per question, readable for a person, and the validation set."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from heal_tasks.core.errors import InputError
from heal_tasks.core.files import DAMAGED
from heal_tasks.training.data import NO_NEGATIVE, UNKNOWN, TrainingData, ValidationSet

TRAIN, VALIDATION, VECTORS = "train.jsonl", "validation.json", "validation_vectors.npz"
FORMAT = 7
"""Raised when the output of ``mine`` changes, so that older training sets are made anew."""


def save(folder: Path, rows: list[dict[str, Any]], validation: ValidationSet) -> None:
    """Write a training set into an existing folder.

    A row has question, question_id (equal for rows with the same question), document, document_id, leaf, path and
    negatives, each with document, document_id and leaf.
    """
    with (folder / TRAIN).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    held_out = {
        "queries": validation.queries,
        "documents": validation.documents,
        "positives": [list(map(int, rows)) for rows in validation.positives],
        "document_ids": validation.document_ids.tolist(),
        "paths": validation.paths.tolist(),
    }
    (folder / VALIDATION).write_text(json.dumps(held_out, ensure_ascii=False), encoding="utf-8")
    np.savez(folder / VECTORS, *(validation.base_vectors or ()))


def load(folder: Path) -> tuple[TrainingData, ValidationSet]:
    """Read a training set from the folder that ``save`` wrote.

    Raises:
        InputError: it is damaged.
    """
    try:
        return _read(folder)
    except (FileNotFoundError, *DAMAGED) as error:
        raise InputError(
            f"the training set in {folder} is damaged ({type(error).__name__}: {error}); delete that folder, and run "
            "step mine again"
        ) from error


def _read(folder: Path) -> tuple[TrainingData, ValidationSet]:
    with (folder / TRAIN).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    depth = max((len(row["path"]) for row in rows), default=0) or 1
    labels = np.full((len(rows), depth), -1, dtype=np.int64)
    for index, row in enumerate(rows):
        labels[index, : len(row["path"])] = row["path"]
    width = max((len(row["negatives"]) for row in rows), default=0)
    missing = {"document": NO_NEGATIVE, "document_id": UNKNOWN, "leaf": UNKNOWN}
    negatives = [row["negatives"] + [missing] * (width - len(row["negatives"])) for row in rows]

    def of_negatives(name: str) -> list[list[Any]]:
        return [[negative[name] for negative in planned] for planned in negatives]

    data = TrainingData(
        questions=[row["question"] for row in rows],
        documents=[row["document"] for row in rows],
        document_ids=np.array([row["document_id"] for row in rows], dtype=np.int64),
        labels=labels,
        leaves=np.array([row["leaf"] for row in rows], dtype=np.int32),
        negatives=of_negatives("document"),
        negative_document_ids=np.array(of_negatives("document_id"), dtype=np.int64).reshape(len(rows), width),
        negative_leaves=np.array(of_negatives("leaf"), dtype=np.int32).reshape(len(rows), width),
        question_ids=np.array([row["question_id"] for row in rows], dtype=np.int64),
    )
    held_out = json.loads((folder / VALIDATION).read_text(encoding="utf-8"))
    held_out["positives"] = [np.array(rows, dtype=np.int64) for rows in held_out["positives"]]
    held_out["document_ids"] = np.array(held_out["document_ids"], dtype=np.int64)
    held_out["paths"] = np.array(held_out["paths"], dtype=np.int64).reshape(
        len(held_out["documents"]), -1 if held_out["documents"] else 0
    )
    with np.load(folder / VECTORS) as stored:
        base_vectors = (stored["arr_0"], stored["arr_1"]) if stored.files else None
    return data, ValidationSet(**held_out, base_vectors=base_vectors)
