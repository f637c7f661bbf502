"""The bench of HEAL's own measures: parts that do not overlap, labels of the training part alone, and its tables."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench import heal_paper, labelled
from bench.common import Collection
from bench.heal_paper import PAPER, System
from bench.label_scores import encode_paths, silhouettes
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.training.config import TrainingConfig
from tests.steps.asking import body
from tests.training.tiny import write_encoder

DOCUMENTS = 90
NAMES = ("forest", "harbour", "kitchen")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety chambers below three labels, one of them with a label of its own; ten are asked for."""
    made = tmp_path_factory.mktemp("chambers")
    documents = [
        {
            "id": f"d{n}",
            "title": f"Chamber {n}",
            "text": f"{(NAMES[n % 3] + ' ') * 4}{body(n)}",
            "labels": ["all", NAMES[n % 3]] if n else ["all", "single"],
        }
        for n in range(DOCUMENTS)
    ]
    queries = [{"id": f"q{n}", "text": f"Which vapour is in chamber {n}?"} for n in range(10)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        with gzip.open(made / f"{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    lines = [f"q{n}\td{n}\t1\t{'test' if n > 7 else 'train'}" for n in range(10)]
    (made / "qrels.tsv").write_text("query_id\tdoc_id\tscore\tsplit\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def data(folder: Path) -> labelled.Labelled:
    return heal_paper.labelled(folder, 1000, 1)


def test_a_choice_never_sees_the_test_part() -> None:
    ids = [f"d{n}" for n in range(1000)]
    known, tested = labelled.split(ids, 1, choose=False)
    inner, judging = labelled.split(ids, 1, choose=True)
    assert sorted([*known, *tested]) == list(range(1000))
    assert sorted([*inner, *judging]) == known.tolist()
    assert (550 < len(known) < 650, 100 < len(judging) < 200) == (True, True)
    assert labelled.split(ids, 2, choose=False)[0].tolist() != known.tolist()


def test_test_queries_of_people_are_never_read(data: labelled.Labelled) -> None:
    assert sorted(data.people.owners.tolist()) == list(range(8))
    for text, owner in zip(data.people.texts, data.people.owners, strict=True):
        assert text == f"Which vapour is in chamber {owner}?"
    assert labelled.NO_QUERIES.texts == labelled.peoples_queries(Path("nowhere"), ("d0",), 1).texts == []


def test_pairs_carry_their_documents_labels(data: labelled.Labelled) -> None:
    known, _ = labelled.split(data.collection.ids, 1, choose=False)
    pairs = labelled.training_data(data, known, data.truth[known])
    assert set(pairs.document_ids.tolist()) <= set(known.tolist())
    assert len(pairs.questions) > len(known)
    for row, document in enumerate(pairs.document_ids):
        assert pairs.documents[row] == data.collection.texts[document]
        assert pairs.labels[row].tolist() == data.truth[document].tolist()
        path = [label for label in pairs.labels[row].tolist() if label >= 0]
        assert pairs.leaves[row] == path[-1]
    assert data.truth[0].tolist() == [data.truth[1, 0], -1]  # a label of one document is cut


def test_random_labels_have_the_trees_shape(data: labelled.Labelled) -> None:
    known = np.arange(DOCUMENTS)
    sources = labelled.topics(data, known, known, 1)[0]
    found, dealt = sources["HNMFk"], sources["random"]
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, dealt.tolist()))
    assert len(np.unique(found)) > 1
    assert (found != dealt).any()


def test_a_head_learns_the_labels_that_it_is_given() -> None:
    labels = tuple((NAMES[n % 3],) for n in range(DOCUMENTS))
    ids = tuple(map(str, range(DOCUMENTS)))
    owners = np.repeat(np.arange(DOCUMENTS), 3)
    asked = labelled.Asked([f"question {n}" for n in range(len(owners))], owners)
    data = labelled.Labelled(Collection("planted", ids, ids, labels), encode_paths(labels), asked, labelled.NO_QUERIES)
    documents = np.random.default_rng(0).normal(size=(DOCUMENTS, 64)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    base = labelled.Vectors(documents, documents[owners], documents[:0])
    pairs = labelled.training_data(data, np.arange(DOCUMENTS), data.truth)
    config = TrainingConfig(**heal_paper.HEAD | PAPER | {"learning_rate": 1e-2})
    moved = labelled.train_head(base, pairs, config, data, np.arange(30))
    before, after = (silhouettes(vectors.documents, data.truth[:, 0])[0].mean() for vectors in (base, moved))
    assert before < 0.05 < 0.5 < after
    assert tuple(map(len, (moved.documents, moved.written, moved.people))) == (DOCUMENTS, 90, 0)


def test_joined_values_keep_their_documents() -> None:
    values, documents = heal_paper.joined([(np.array([0.5]), np.array([3])), (np.array([1.0, 0.0]), np.array([3, 4]))])
    assert (values.tolist(), documents.tolist()) == ([0.5, 1.0, 0.0], [3, 3, 4])


def test_tables_have_every_system_and_its_difference(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    systems = {"base": System(), "paper (true)": System("true", PAPER)}
    monkeypatch.setattr(heal_paper, "SYSTEMS", systems)
    words = {word for n in range(DOCUMENTS) for word in re.findall(r"\w+|\S", f"{NAMES[n % 3]} {body(n)}".lower())}
    model = write_encoder(tmp_path, sorted(words))
    monkeypatch.setattr(heal_paper, "resolve_model", {PACKAGED_MODEL: str(model)}.get)
    out = tmp_path / "rows.json"
    heal_paper.main(["--collection", str(folder), "--steps", "1", "--seeds", "1", "--json", str(out)])
    printed, stored = capsys.readouterr().out, json.loads(out.read_text())
    stored.pop("versions")
    titles = {title.partition(", ")[2] for title in stored}
    assert titles == {
        "nearest neighbours", "nearest neighbours, HNMFk's topics", "linear probe",
        "level 1", "level 2", "own document",
    }  # fmt: skip
    # All documents share the label of level 1, which leaves no silhouette.
    assert [any("silhouette" in name for name in stored[f"{folder.name}, level {level}"][0]) for level in (1, 2)] == [
        False, True,
    ]  # fmt: skip
    for title, rows in stored.items():
        assert f"{title.partition(', ')[2]}:" in printed
        assert [row["system"] for row in rows] == list(systems)
        before, after = ([row[name] for name in row if name.endswith("against base")] for row in rows)
        assert set(before) == {""}
        assert all("[" in apart for apart in after)


def test_nothing_to_measure_ends_with_code_2_and_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        heal_paper.main([])
    assert "give --collection or --documentation" in capsys.readouterr().err
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as stream:
        stream.write('{"id": "1", "title": "", "text": "unlabelled"}\n')
    with pytest.raises(SystemExit, match="2"):
        heal_paper.main(["--collection", str(tmp_path)])
    assert "no labels that two documents share" in capsys.readouterr().err
