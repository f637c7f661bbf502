"""The quality bench on a small collection: splits that do not overlap, and scores equal to an obvious computation."""

import gzip
import json

import numpy as np
import pytest

from bench.nudge_quality import System, compare, load_splits, score
from heal_tasks.core.errors import InputError
from heal_tasks.evaluation.ranking import evaluate
from heal_tasks.nudge.questions import QuestionSet


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    documents = unit(rng.standard_normal((60, 16)))
    answers = np.repeat(np.arange(40), 5)
    sides = unit(rng.standard_normal((60, 16)))
    queries = unit(documents[answers] + sides[answers] + 0.25 * rng.standard_normal((200, 16)))
    for name, count in (("corpus", 60), ("queries", 200)):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"id": f"{name[0]}{row}", "text": "x"}) + "\n" for row in range(count))
    np.save(tmp_path / "corpus_minilm_f16.npy", documents.astype(np.float16))
    np.save(tmp_path / "queries_minilm_f16.npy", queries.astype(np.float16))
    lines = [f"q{row}\tc{answer}\t1\t{'test' if row % 5 == 0 else 'train'}" for row, answer in enumerate(answers)]
    (tmp_path / "qrels.tsv").write_text(
        "\n".join(["query_id\tdoc_id\tscore\tsplit", *lines, "q0\tc50\t0\ttest"]) + "\n"
    )
    return tmp_path


def test_splits(folder):
    base, splits = load_splits(folder)
    assert base.shape == (60, 16)
    for parts in splits.values():
        assert sum(len(part.positives) for part in parts.values()) == 200
        everything = np.vstack([part.vectors for part in parts.values()])
        assert len(np.unique(everything, axis=0)) == 200, "no question is in two parts"
    assert len(splits["official"]["test"].positives) == 40
    assert 0 < len(splits["official"]["dev"].positives) < 60
    assert [len(part.positives) for part in splits["pooled"].values()] == [140, 20, 40]
    assert [rows.tolist() for rows in splits["official"]["test"].positives] == [[row] for row in range(40)]
    documents = [np.unique(np.concatenate(part.positives)) for part in splits["documents"].values()]
    assert len(np.intersect1d(documents[0], documents[2])) > 0, "test asks about documents that train,"
    assert len(np.setdiff1d(documents[2], np.concatenate(documents[:2]))) > 0, "and about others"
    (folder / "queries_minilm_f16.npy").unlink()
    with pytest.raises(InputError, match="encode both first"):
        load_splits(folder)


def test_scores_equal_an_obvious_computation(folder):
    base, splits = load_splits(folder)
    test, train = splits["official"]["test"], splits["official"]["train"]
    np.testing.assert_array_equal(
        score(System(base), test)["ndcg@10"], evaluate(test.vectors, base, test.positives)["ndcg@10"]
    )
    rows = QuestionSet(train.vectors, [np.append(wanted, 59) for wanted in train.positives])
    top = [
        max(range(60), key=lambda d: max([q @ base[d], *(q @ v for v, w in zip(*pair, strict=True) if d in w)]))
        for q in test.vectors
        for pair in [(rows.vectors, rows.positives)]
    ]
    hit = [best in wanted for best, wanted in zip(top, test.positives, strict=True)]
    assert score(System(base, rows), test)["accuracy@1"].tolist() == hit


def test_every_system_has_a_row(folder):
    base, splits = load_splits(folder)
    rows = compare(base, splits["official"])
    assert [row["system"] for row in rows][:3] == ["base", "nudge-ft M", "nudge-ft N"]
    assert [row["system"] for row in rows][-2:] == ["chosen", "pipeline"]
    by_name = {row["system"]: row for row in rows}
    assert by_name["NUDGE-N"]["top-1"] > by_name["base"]["top-1"]
    assert by_name["NUDGE-N"]["top-1"] >= by_name["nudge-ft N"]["top-1"] - 0.05
