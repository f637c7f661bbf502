"""The planted corpus of the rehearsal at scale: texts, vectors, the changes of a night, and the growth of a stage."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.scale import with_growth
from bench.scale_corpus import LENGTH, PlantedEncoder, drop_night, write_documents


def read(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_night_adds_changes_and_deletes_documents(tmp_path: Path) -> None:
    inbox, aside = tmp_path / "inbox", tmp_path / "aside.jsonl"
    write_documents(inbox, aside, 40, 8)
    (file,) = inbox.iterdir()
    before = {row["id"]: row for row in read(file)}
    assert len(before) == 40
    assert all(LENGTH[0] <= len(row["text"].split()) <= LENGTH[1] for row in before.values())
    drop_night(inbox, aside, new=8, changed=3, deleted=2)
    after = {row["id"]: row for row in read(file)}
    assert len(read(inbox / "night.jsonl")) == 8
    assert len(before.keys() - after.keys()) == 2
    assert sum(after[key]["text"] != before[key]["text"] for key in after) == 3


def test_parts_of_a_document_are_near_each_other_and_its_question_is_near_it(tmp_path: Path) -> None:
    write_documents(tmp_path / "inbox", tmp_path / "aside.jsonl", 30, 1)
    rows = read(next((tmp_path / "inbox").iterdir()))
    halves = [half for row in rows for half in (row["text"][:2000], row["text"][2000:])]
    titles = [row["title"] for row in rows for _ in range(2)]
    encoder = PlantedEncoder()
    vectors = encoder.encode([f"{title}\n{text}" for title, text in zip(titles, halves, strict=True)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    similar = vectors @ vectors.T
    siblings = similar[np.arange(0, 60, 2), np.arange(1, 60, 2)]
    assert siblings.mean() > similar[::2, ::2][~np.eye(30, dtype=bool)].mean() + 0.1
    question = " ".join([*rows[7]["text"].lower().replace(".", "").split()[:6], rows[7]["title"]])
    (asked,) = encoder.encode([question], role="query")
    assert (vectors @ asked).argmax() // 2 == 7


def test_growth_is_the_exponent_between_two_sizes() -> None:
    rows = [
        {"chunks": 1000 * 10**size, "stage": "s", "CPU s": 1.0 * 100**size, "server CPU s": 0.0, "note": "n"}
        for size in range(2)
    ]
    first, second = with_growth(rows)
    assert first["growth"] == ""
    assert float(second["growth"]) == pytest.approx(2)
