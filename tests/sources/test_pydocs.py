"""Reference documentation of packages as a source, and samples of it."""

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.errors import SourceError
from heal_tasks.core.types import Record, SourceFile
from heal_tasks.sources.base import open_source
from heal_tasks.sources.parse import read_records
from heal_tasks.sources.samples import sample

LONG = "Does a thing.\n\n    " + "Told at length. " * 20
MODULE = f'''
raise RuntimeError("imported")

class KMeans:
    """{LONG}"""

    def __init__(self, n_clusters: int = 8, *, init: str = "k-means++"):
        """{LONG}"""

    def fit(self, X: "array", y=None) -> "KMeans":
        """{LONG}"""

    @property
    def labels(self):
        """{LONG}"""

    @labels.setter
    def labels(self, value):
        """Second. {LONG}"""

    def _private(self):
        """{LONG}"""

    class Inner:
        """{LONG}"""

def short():
    """Too short."""

if True:
    async def fetch(url, /, *urls, **options):
        """{LONG}"""
else:
    def fetch(other):
        """{LONG}"""

def many({", ".join(f"parameter_{number}=None" for number in range(30))}):
    """{LONG}"""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    files = {
        "__init__.py": f'def top(a):\n    r"""{LONG} \\d"""\n',
        "cluster/__init__.py": "",
        "cluster/_kmeans.py": MODULE,
        "broken.py": "def (:",
        "nul.py": "a = '\0'",
        "latin.py": f'# -*- coding: latin-1 -*-\ndef f():\n    """caf\xe9 {LONG}"""\n',
        "tests/test_a.py": MODULE,
        "testing.py": MODULE,
        "cluster/conftest.py": MODULE,
        "_vendor/other.py": MODULE,
        "not-a-module.py": MODULE,
    }
    for path, text in files.items():
        file = tmp_path / "site" / "planted_docs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode("latin-1"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "planted_docs"


def _records(spec: str) -> dict[str, Record]:
    source = open_source(spec, s3_endpoint_url=None)
    found: dict[str, Record] = {}
    for file in source.list_files():
        for item in read_records(source, file, max_bytes=10**8, max_chars=10**6):
            assert isinstance(item, Record), item
            assert item.external_id not in found
            found[item.external_id] = item
    return found


def test_planted_package(package: str) -> None:
    source = open_source(f"pydocs:{package}", s3_endpoint_url=None)
    assert [file.path for file in source.list_files()] == [
        f"{package}/{path}.jsonl" for path in ("__init__.py", "cluster/_kmeans.py", "latin.py")
    ]
    records = _records(f"pydocs:{package}")
    assert {name: record.title for name, record in records.items() if not name.endswith("many")} == {
        f"{package}.top": f"{package}.top(a)",
        f"{package}.latin.f": f"{package}.latin.f()",
        f"{package}.cluster._kmeans.KMeans": f"{package}.cluster.KMeans(n_clusters=8, *, init='k-means++')",
        f"{package}.cluster._kmeans.KMeans.fit": f"{package}.cluster.KMeans.fit(self, X, y=None)",
        f"{package}.cluster._kmeans.KMeans.labels": f"{package}.cluster.KMeans.labels",
        f"{package}.cluster._kmeans.KMeans.Inner": f"{package}.cluster.KMeans.Inner",
        f"{package}.cluster._kmeans.fetch": f"{package}.cluster.fetch(url, /, *urls, **options)",
    }
    long_title = records[f"{package}.cluster._kmeans.many"].title
    assert len(long_title) == 160
    assert long_title.endswith("…")
    fit = records[f"{package}.cluster._kmeans.KMeans.fit"]
    assert fit.body.startswith("Does a thing.\n\nTold at length.")
    assert fit.metadata == {
        "package": package,
        "module": f"{package}.cluster._kmeans",
        "path": [package, "cluster", "_kmeans", "KMeans"],
        "object": "method",
    }
    kinds = {name.rpartition(".")[2]: record.metadata["object"] for name, record in records.items()}
    assert (kinds["KMeans"], kinds["Inner"], kinds["fetch"], kinds["labels"]) == (
        "class",
        "class",
        "function",
        "method",
    )
    assert records[f"{package}.latin.f"].body.startswith("café")
    assert package not in sys.modules


def test_the_fingerprint_follows_the_documentation_and_not_the_file(package: str, tmp_path: Path) -> None:
    source = open_source(f"pydocs:{package}", s3_endpoint_url=None)
    file = tmp_path / "site" / package / "cluster" / "_kmeans.py"

    def fingerprint() -> str:
        return {found.path: found.fingerprint for found in source.list_files()}[f"{package}/cluster/_kmeans.py.jsonl"]

    first = fingerprint()
    file.write_text(MODULE + "\nx = 1\n")
    assert fingerprint() == first
    file.write_text(MODULE.replace("Does a thing", "Does another thing"))
    assert fingerprint() != first


def test_a_file_that_is_no_module_is_an_error(package: str) -> None:
    source = open_source(f"pydocs:{package}", s3_endpoint_url=None)
    with pytest.raises(SourceError, match="is not a module of pydocs:"):
        source.read(SourceFile("../../etc/passwd", "f", 1), 10**6)


def test_real_packages_including_one_that_is_a_single_file() -> None:
    records = _records("pydocs: psycopg, typing_extensions")
    assert {record.metadata["package"] for record in records.values()} == {"psycopg", "typing_extensions"}
    assert len(records) > 50
    assert all(len(record.title) <= 160 and len(record.body) >= 190 for record in records.values())


PACKAGES = ("networkx", "psycopg", "rich")
SMALL = PACKAGES[1:]


def _ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


def test_a_sample_is_a_prefix_of_one_order() -> None:
    long = _ids(sample(PACKAGES, 120, seed=13))
    assert len(set(long)) == 120
    assert _ids(sample(PACKAGES, 100, seed=13)) == long[:100]
    assert _ids(sample(tuple(reversed(PACKAGES)), 20, seed=13, offset=100)) == long[100:]
    assert set(long) != set(_ids(sample(PACKAGES, 120, seed=14)))


def test_a_sample_takes_from_packages_by_the_square_root_of_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, functions in (("planted_large", 900), ("planted_small", 100)):
        (tmp_path / name).mkdir()
        text = "".join(f'def f{number:03d}():\n    """{number:03d} {LONG}"""\n' for number in range(functions))
        (tmp_path / name / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def counts(documents: int) -> Counter[str]:
        taken = sample(("planted_small", "planted_large"), documents, seed=1)
        return Counter(item["metadata"]["package"] for item in taken)

    assert math.sqrt(900 / 100) == 3
    assert counts(200) == {"planted_large": 150, "planted_small": 50}
    assert counts(2000) == {"planted_large": 900, "planted_small": 100}  # all there are


def test_a_sample_has_every_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = "".join(f'def {name}():\n    """{LONG}"""\n' for name in ("get", "get_async"))
    (tmp_path / "planted_twins.py").write_text(functions)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(sample(("planted_twins",), 10, seed=1)) == 1


def test_a_sample_loads_as_json_lines(tmp_path: Path) -> None:
    items = sample(SMALL, 60, seed=13)
    (tmp_path / "sample.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    records = _records(f"file:{tmp_path}")
    assert len(records) == 60
    assert set(records) == set(_ids(items))
    assert records.keys() <= _records("pydocs:" + ",".join(SMALL)).keys()
    assert sorted(items[0]) == ["id", "metadata", "text", "title"]
