"""NUDGE-N on SciFact: human claims over 5,183 abstracts, official test split."""

import csv
import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from heal_tasks.evaluation.ranking import evaluate
from heal_tasks.nudge.nudge import QuestionSet, nudge

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "scifact"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the SciFact collection is not at ../shared/data/scifact")


def rows_of(name):
    with gzip.open(FOLDER / name, "rt", encoding="utf-8") as lines:
        return {json.loads(line)["id"]: row for row, line in enumerate(lines)}


def vectors_of(name):
    wide = np.load(FOLDER / name, allow_pickle=False).astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def scifact():
    documents, queries = rows_of("corpus.jsonl.gz"), rows_of("queries.jsonl.gz")
    answers = {"train": {}, "dev": {}, "test": {}}
    with (FOLDER / "qrels.tsv").open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines, delimiter="\t"):
            split = line["split"]
            if split == "train" and int(hashlib.sha256(line["query_id"].encode()).hexdigest(), 16) % 8 == 0:
                split = "dev"
            answers[split].setdefault(queries[line["query_id"]], []).append(documents[line["doc_id"]])
    vectors = vectors_of("queries_minilm_f16.npy")
    sets = {
        split: QuestionSet(vectors[list(found)], [np.array(rows) for rows in found.values()])
        for split, found in answers.items()
    }
    return vectors_of("corpus_minilm_f16.npy"), sets


def test_base_value_is_the_published_one(scifact):
    base, sets = scifact
    assert len(sets["test"].positives) == 300
    values = evaluate(sets["test"].vectors, base, sets["test"].positives)
    assert values["ndcg@10"].mean() == pytest.approx(0.645, abs=0.001)


@pytest.mark.parametrize("metric", ["ndcg@10", "accuracy@1"])
def test_nudge_lifts_unseen_claims_about_known_abstracts(scifact, metric):
    base, sets = scifact
    result = nudge(base, sets["train"], sets["dev"], metric=metric)
    moved = base.copy()
    moved[result.rows] = result.vectors
    dev = evaluate(sets["dev"].vectors, moved, sets["dev"].positives)[metric].mean()
    assert result.choice.after.mean() == pytest.approx(dev, abs=0.002)
    assert evaluate(sets["test"].vectors, moved, sets["test"].positives)["ndcg@10"].mean() >= 0.80
