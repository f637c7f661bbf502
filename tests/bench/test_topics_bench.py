"""The topic bench's metrics against hand-made examples, perfect and useless trees, and the project's own scores."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from bench import topics
from bench.common import Measured
from heal_tasks.evaluation import hierarchy

A, AX, AY, B = ("a",), ("a", "x"), ("a", "y"), ("b",)


def test_hierarchical_scores_by_hand() -> None:
    # Shared: a | nothing | a, x. Predicted 2 + 1 + 2 = 5, true 2 + 2 + 2 = 6, shared 1 + 0 + 2 = 3.
    predicted = [topics.ancestors(AX), topics.ancestors(B), topics.ancestors(AX)]
    assert topics.hierarchical_scores(predicted, [AY, AX, AX]) == pytest.approx((3 / 5, 3 / 6, 6 / 11))
    assert topics.hierarchical_scores([set()], [AX]) == (0, 0, 0)


def test_hierarchical_scores_agree_with_the_projects_own() -> None:
    rng = np.random.default_rng(0)
    truth, given = rng.integers(0, 3, (2, 200, 2))
    codes = [np.stack([paths[:, 0], 10 + 3 * paths[:, 0] + paths[:, 1]], axis=1) for paths in (truth, given)]
    own = hierarchy.hierarchical_scores(codes[1][:, None, :], codes[0])
    labels = [[tuple(map(str, path)) for path in paths] for paths in (truth, given)]
    ours = topics.hierarchical_scores([topics.ancestors(path) for path in labels[1]], labels[0])
    assert ours == pytest.approx((own["precision"], own["recall"], own["f1"]))


def test_best_prefix_goes_as_deep_as_it_pays() -> None:
    # a: 2 * 3 / (3 + 6) = 2/3; a, x: 2 * 5 / (6 + 6) = 5/6.
    assert topics.best_prefix([AX, AX, AY], longest=2) == AX
    assert topics.best_prefix([AX, AX, AY], longest=1) == A
    # a: 2 * 4 / (4 + 8) = 2/3; any child: 2 * 5 / (8 + 8) = 5/8.
    assert topics.best_prefix([("a", name) for name in "wxyz"], longest=2) == A
    assert topics.best_prefix([], longest=2) == topics.best_prefix([()], longest=2) == ()


def test_names_are_learnt_on_one_half_only() -> None:
    naming = np.array([True, True, False, False])
    clusters = np.array([[0], [1], [0], [1]])
    expected = [topics.ancestors(AX), topics.ancestors(B)]
    assert topics.predict(clusters, [AX, B, B, AX], naming) == expected
    assert topics.predict(clusters, [AX, B, AY, AY], naming) == expected
    assert topics.predict(np.array([[0], [0], [1], [1]]), [AX, AX, AX, AX], naming) == [set(), set()]


def test_contradicting_levels_cost_precision() -> None:
    truth, naming = [AX, AX, B, AX], np.array([True, True, True, False])
    levels = np.array(
        [[0, 0], [1, 0], [1, 2], [1, 0]]
    )  # the last document: cluster 1 is a or b (tie: a), leaf 0 is a, x
    assert topics.predict(levels, truth, naming) == [{A, AX}]
    levels[1, 0] = 0  # now cluster 1 is b alone, against the leaf's a, x
    assert topics.predict(levels, truth, naming) == [{B, A, AX}]
    assert topics.hierarchical_scores([{B, A, AX}], [AX]) == pytest.approx((2 / 3, 1, 4 / 5))


def planted(n: int = 400) -> tuple[list[str], list[tuple[str, ...]], np.ndarray]:
    """Ids, label paths, and the levels of a perfect tree."""
    fine = np.random.default_rng(1).integers(0, 6, n)
    paths: list[tuple[str, ...]] = [(f"s{code // 2}", f"t{code}") for code in fine]
    return [f"doc{row}" for row in range(n)], paths, np.stack([fine // 2, fine], axis=1)


def test_a_perfect_tree_scores_one_and_a_random_one_near_nothing() -> None:
    ids, truth, levels = planted()
    row = topics.score("perfect", 1, Measured(levels, 1.0, 1.0, 1.0), ids, truth)
    assert (row["hP"], row["hR"], row["hF1"], row["leaf hF1"], row["leaves"]) == (1, 1, 1, 1, 6)
    upper, leaves = topics.agreements("perfect", 1, levels, truth)
    assert (upper["level"], upper["clusters"], upper["NMI 1"], upper["AMI 1"]) == ("1", 3, 1, 1)
    assert (leaves["level"], leaves["clusters"], leaves["NMI 2"], leaves["AMI 2"]) == ("leaves", 6, 1, 1)

    noise = np.random.default_rng(2).integers(0, 60, (len(ids), 1))
    awful = topics.score("awful", 1, Measured(noise, 1.0, 1.0, 1.0), ids, truth)
    assert awful["hF1"] < 0.4
    (leaves,) = topics.agreements("awful", 1, noise, truth)
    assert abs(leaves["AMI 2"]) < 0.03 < 0.1 < leaves["NMI 2"]


def test_nmi_by_hand_leaves_out_documents_without_a_label_there() -> None:
    # Two labels of two documents each; clusters 3 + 1: I = H(clusters) - H(clusters | label) = H(1/4) - 1/2 bits.
    truth = [AX, AX, AY, AY, B]
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    nmi, _ = topics.agreement(np.array([0, 0, 0, 1, 1]), truth, level=2)
    assert nmi == pytest.approx((entropy - 0.5) / ((entropy + 1) / 2))


def test_halves_depend_on_the_id_alone() -> None:
    ids = [f"doc{row}" for row in range(1000)]
    half = topics.mapping_half(ids)
    assert 440 < half.sum() < 560
    assert (topics.mapping_half(ids[::-1]) == half[::-1]).all()


def test_a_label_of_one_document_is_cut() -> None:
    assert topics.cut_rare([AX, AX, AY, B]) == [AX, AX, A, ()]


def test_a_branch_that_ended_stands_at_deeper_levels() -> None:
    paths = np.array([[1, 2, 3], [1, 4, -1], [5, -1, -1]])
    assert topics.tree_levels(paths).tolist() == [[1, 2, 3], [1, 4, 4], [5, 5, 5]]


def test_rows_over_seeds_become_mean_and_half_the_range() -> None:
    rows = [
        {"method": "m", "seed": seed, "leaves": leaves, "hF1": f1, "CPU s": 1.0}
        for seed, leaves, f1 in ((1, 10, 0.5), (2, 13, 0.6))
    ]
    assert topics.summarise(rows) == [{"method": "m", "leaves": "11.5 ± 1.5", "hF1": "0.550 ± 0.050", "CPU s": "1.0"}]


def test_every_method_finds_three_plain_topics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "measure", lambda function, *args: Measured(function(*args), 1.0, 1.0, 1.0))
    rng = np.random.default_rng(3)
    words = [[f"topic{topic}word{word}" for word in range(30)] for topic in range(3)]
    labels = rng.integers(0, 3, 120)
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as stream:
        for row, label in enumerate(labels.tolist()):
            text = " ".join(rng.choice(words[label], 40))
            stream.write(json.dumps({"id": str(row), "title": "", "text": text, "labels": [f"t{label}"]}) + "\n")
    np.save(tmp_path / "corpus_minilm_f16.npy", np.eye(4, dtype=np.float16)[labels])
    out = tmp_path / "rows.json"
    topics.main(["--collection", str(tmp_path), "--seeds", "1", "--json", str(out)])
    printed, stored = capsys.readouterr().out, json.loads(out.read_text())
    assert [row["method"] for row in stored["scores"]] == [
        "HNMFk", "NMF, TF-IDF", "k-means, TF-IDF", "k-means, MiniLM", "Ward, MiniLM",
    ]  # fmt: skip
    for row in stored["scores"]:
        assert row["method"] in printed
        assert row["hF1"] > 0.9


def test_wrong_folders_end_with_code_2_and_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        topics.main(["--collection", str(tmp_path / "nowhere")])
    assert "give the folder of one" in capsys.readouterr().err
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as stream:
        stream.write('{"id": "1", "title": "", "text": "unlabelled"}\n')
    with pytest.raises(SystemExit, match="2"):
        topics.main(["--collection", str(tmp_path)])
    assert "no labels that two documents share" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        topics.main(["--pydocs", "no_such_package"])
    assert "not installed" in capsys.readouterr().err
