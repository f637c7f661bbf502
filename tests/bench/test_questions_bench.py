"""The bench of questions on a small collection of its own: what it reads, what it asks, and what it judges by."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench import questions
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.evaluation.ranking import evaluate
from tests.steps.asking import body
from tests.training.tiny import write_encoder

DOCUMENTS, QUERIES = 80, 20


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that knows the words of the chambers."""
    texts = [f"Chamber {n} of the report {body(n)} Which is" for n in range(DOCUMENTS)]
    words = {word for text in texts for word in re.findall(r"\w+|\S", text.lower())}
    return write_encoder(tmp_path_factory.mktemp("base"), sorted(words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty chambers; every fourth is asked for by a test query; one other by a train query."""
    made = tmp_path_factory.mktemp("chambers")
    documents = [{"id": f"d{n}", "title": f"Chamber {n} of the report", "text": body(n)} for n in range(DOCUMENTS)]
    queries = [{"id": f"q{n}", "text": f"Which vapour is in chamber number{4 * n}?"} for n in range(QUERIES)]
    queries.append({"id": "other", "text": "glass"})
    for name, rows in (("corpus", documents), ("queries", queries)):
        with gzip.open(made / f"{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    lines = [f"q{n}\td{4 * n}\t1\ttest" for n in range(QUERIES)]
    lines += ["q0\td7\t0\ttest", "q0\tmissing\t1\ttest", "other\td1\t1\ttrain"]
    (made / "qrels.tsv").write_text("query_id\tdoc_id\tscore\tsplit\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> questions.Vectors:
    return questions.Vectors(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def judged(folder: Path, base: Path, vectors: questions.Vectors) -> questions.Judged:
    return questions.load(folder, "test", 0, base, vectors, 1)


def test_only_the_asked_split_and_positive_judgements_count(judged: questions.Judged) -> None:
    assert len(judged.ids) == DOCUMENTS
    assert [judged.ids[row] for (row,) in judged.positives] == [f"d{4 * n}" for n in range(QUERIES)]
    assert judged.queries[1] == "Which vapour is in chamber number4?"
    assert judged.titles[3] == "Chamber 3 of the report"


def test_fewer_documents_keep_those_that_answer(folder: Path, base: Path, vectors: questions.Vectors) -> None:
    few = questions.load(folder, "test", 30, base, vectors, 1)
    assert len(few.ids) == len(set(few.ids)) == 30
    assert [few.ids[row] for (row,) in few.positives] == [f"d{4 * n}" for n in range(QUERIES)]
    fewer = questions.load(folder, "test", 10, base, vectors, 1)
    assert len(fewer.ids) == len(fewer.queries) == 10
    assert all(
        query.endswith(f"number{fewer.ids[row][1:]}?")
        for query, (row,) in zip(fewer.queries, fewer.positives, strict=True)
    )


def test_sets_are_of_the_same_documents_and_split_alike(
    judged: questions.Judged, base: Path, vectors: questions.Vectors
) -> None:
    titles, one, all_of_them = questions.ask(judged, 3, base, vectors)
    assert titles.texts == list(judged.titles)
    assert set(one.texts) <= set(all_of_them.texts)
    assert len(one.texts) <= DOCUMENTS < len(all_of_them.texts) <= 3 * DOCUMENTS
    assert len(np.unique(one.rows)) == len(one.rows)
    unseen = [
        {int(row) for row, split in zip(item.rows, item.splits, strict=True) if split.startswith("unseen")}
        for item in (titles, all_of_them)
    ]
    assert unseen[0] & set(all_of_them.rows.tolist()) == unseen[1]
    learnt = all_of_them.taken("train")
    assert len(learnt.positives) == int((all_of_them.splits == "train").sum()) > 0
    assert set(np.concatenate(learnt.positives).tolist()).isdisjoint(unseen[1])


def test_a_second_encoding_is_read_back(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = questions.Vectors(tmp_path)
    first = vectors.of(["a lens", "a quasar"], base)
    monkeypatch.setattr(questions, "Encoder", None)
    np.testing.assert_array_equal(vectors.of(["a lens", "a quasar"], base), first)
    with pytest.raises(TypeError):
        vectors.of(["a quasar", "a lens"], base)


def test_the_whole_bench(
    folder: Path, judged: questions.Judged, base: Path, vectors: questions.Vectors, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(questions, "resolve_model", {PACKAGED_MODEL: str(base)}.get)
    json_file = tmp_path / "rows.json"
    questions.main(
        [
            "--collection",
            str(folder),
            "--steps",
            "2",
            "--batch",
            "4",
            "--head-steps",
            "3",
            "--cache",
            str(tmp_path),
            "--json",
            str(json_file),
        ]
    )
    written = json.loads(json_file.read_text())
    rows = written["judged"]
    expected = evaluate(vectors.of(judged.queries, base), judged.vectors, judged.positives)
    assert rows[0]["ndcg@10"] == pytest.approx(expected["ndcg@10"].mean(), abs=1e-6)
    assert [(row["method"], row["questions"]) for row in rows[1:]] == [
        (method, name)
        for name in ("titles", "extractive, 1", "extractive, 3") for method in ("NUDGE", "NUDGE, forced")
    ] + [("head, 3 steps", name) for name in ("titles", "extractive, 1", "extractive, 3")] + [
        ("training, 2 steps", name) for name in ("titles", "extractive, 3")
    ]  # fmt: skip
    assert all(row["theta"] == questions.FORCED_THETA for row in rows if row["method"] == "NUDGE, forced")
    for row in rows[1:]:
        gain = float(row["Δ ndcg@10"].split()[0])
        assert gain == pytest.approx(row["ndcg@10"] - rows[0]["ndcg@10"], abs=1e-4)
    assert f"{folder.name}: {DOCUMENTS} documents, {QUERIES} test queries." in capsys.readouterr().out
    assert written["questions"][0]["number"] == DOCUMENTS


def test_a_split_that_is_not_there_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        questions.main(["--collection", str(folder), "--split", "dev"])
    assert "judges no query of split 'dev'" in capsys.readouterr().err
