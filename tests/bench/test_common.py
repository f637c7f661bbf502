"""The bench's measurements tell the truth about a child process, and its outputs agree with each other."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench import common
from heal_tasks.core.errors import HealError, InputError


def hold(mebibytes: int) -> int:
    return len(np.ones(mebibytes << 20, np.uint8))


def burn(seconds: float) -> str:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return os.environ["OMP_NUM_THREADS"]


def burn_in_a_child(seconds: float) -> None:
    code = f"import time\nwhile time.process_time() < {seconds}: pass"
    subprocess.run([sys.executable, "-c", code], check=True)


def fail() -> None:
    raise KeyError("the planted failure")


def die() -> None:
    os._exit(7)


def test_memory_is_the_childs_own_and_not_its_parents() -> None:
    ballast = np.ones(400 << 20, np.uint8)
    small, large = common.measure(hold, 1), common.measure(hold, 200)
    assert large.result == 200 << 20
    assert 190 < large.peak_mib - small.peak_mib < 230
    assert small.peak_mib < 400 <= ballast.nbytes >> 20


def test_cpu_counts_the_child_and_its_children_but_not_sleep() -> None:
    own = common.measure(burn, 0.5, threads=3)
    assert own.result == "3"
    assert 0.5 <= own.cpu_s < 0.8
    assert common.measure(burn_in_a_child, 0.5).cpu_s >= 0.5
    asleep = common.measure(time.sleep, 0.5)
    assert asleep.cpu_s < 0.2 < 0.5 <= asleep.wall_s


def test_a_failure_carries_its_traceback_and_a_death_its_exit_code() -> None:
    with pytest.raises(HealError, match="the planted failure"):
        common.measure(fail)
    with pytest.raises(HealError, match="exit code 7"):
        common.measure(die)


def test_repeat_takes_medians_of_five_runs_or_more(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter([(5.0, 1.0, 9.0), (1.0, 2.0, 8.0), (90.0, 3.0, 7.0), (2.0, 4.0, 6.0), (3.0, 5.0, 5.0)])
    monkeypatch.setattr(common, "measure", lambda *_, **__: common.Measured("result", *next(costs)))
    run = common.repeat(hold, 1)
    assert (str(run.result), run.cpu_s, run.wall_s, run.peak_mib) == ("result", 3.0, 3.0, 7.0)
    with pytest.raises(InputError, match="runs=4"):
        common.repeat(hold, 1, runs=4)


def test_table_and_json_hold_the_same_rows(tmp_path: Path) -> None:
    rows = [{"method": "ours", "F1": 2 / 3, "leaves": 12}, {"method": "a longer name", "F1": 0.5, "note": "flat"}]
    common.write_json(tmp_path / "rows.json", {"scores": rows})
    stored = json.loads((tmp_path / "rows.json").read_text())
    assert stored["scores"] == rows
    assert stored["versions"] == common.versions()
    assert common.table(stored["scores"]).splitlines() == [
        "| method        | F1    | leaves | note |",
        "| ------------- | ----- | ------ | ---- |",
        "| ours          | 0.667 | 12     |      |",
        "| a longer name | 0.500 |        | flat |",
    ]


def write(folder: Path, vectors: int) -> None:
    documents = [
        {"id": "a", "title": "Title", "text": "text", "labels": ["x", "y"]},
        {"id": "b", "title": "", "text": "more", "labels": [["x", "z"], ["w"]]},
        {"id": "c", "title": "", "text": "bare"},
    ]
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as stream:
        stream.writelines(f"{json.dumps(document)}\n" for document in documents)
    np.save(folder / "corpus_minilm_f16.npy", np.full((vectors, 4), 0.4999, np.float16))


def test_collection_takes_the_first_label_path_and_renormalises_vectors(tmp_path: Path) -> None:
    write(tmp_path, vectors=3)
    collection = common.load_collection(tmp_path)
    assert (collection.ids, collection.texts) == (("a", "b", "c"), ("Title text", "more", "bare"))
    assert collection.labels == (("x", "y"), ("x", "z"), ())
    assert collection.vectors is not None
    assert collection.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(collection.vectors, axis=1), 1, atol=1e-6)


def test_a_collection_that_is_missing_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.jsonl\.gz is missing"):
        common.load_collection(tmp_path)
    write(tmp_path, vectors=2)
    with pytest.raises(InputError, match="2 rows for 3 documents"):
        common.load_collection(tmp_path)
