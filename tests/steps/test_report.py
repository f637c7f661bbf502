"""The run's page and verdict: pictures and topics of a tree that the real step built."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.report import tsne
from heal_tasks.report.store_map import read_map
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.served import Served, ServedRepository
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.topics.config import HNMFkConfig
from tests.steps.conftest import RUN, Built


def page(built: Built, conn: Connection, run_id: str = RUN) -> str:
    """The page as it is now, not as it was at the end of the run."""
    conn.execute("UPDATE heal.run SET state = NULL, finished_at = NULL")
    made = load_step("report").run(built.settings, Manifest(run_id=run_id))
    return (Path(made.text("report_uri")) / "report.html").read_text()


def figure(text: str) -> ElementTree.Element:
    (found,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    return ElementTree.fromstring(found)


def topics_section(text: str) -> str:
    return text.partition(">Topics</h2>")[2]


def activate(conn: Connection, topic_run_id: int | None, served: Served | None = None) -> int:
    generations = GenerationRepository(conn)
    dims = served.vectors.shape[1] if served else 2
    space = SpaceRepository(conn).ensure("served model", f"sha of {dims} dimensions", dims)
    made = generations.create(run_id="r", space=space, topic_run_id=topic_run_id)
    generations.create_tables(made)
    if served:
        ServedRepository(conn).write_served(made, served)
    generations.set_state(made.generation_id, "ready")
    generations.activate(made.generation_id, lock_timeout_ms=1000)
    return made.generation_id


def test_the_plot_has_every_measured_point_and_the_chosen_k(built: Built, shared: Connection) -> None:
    svg = figure(page(built, shared))
    records, k = built.records, built.tree.root.k
    assert k == 3, "the planted super-topics"
    tips = {
        gid: [use.findtext("title") for use in svg.findall(f".//*[@id='selection-{gid}']//use")]
        for gid in ("terms", "documents", "errors")
    }
    measured = [record for record in records if record.k > 1 and record.silhouette is not None]
    assert measured
    assert {gid: len(found) for gid, found in tips.items()} == {
        "terms": len(measured), "documents": len(measured), "errors": len(records),
    }  # fmt: skip
    for record in measured:
        assert f"k = {record.k}: silhouette of terms {record.term_silhouette:.2f}" in tips["terms"]
    words = [text.text for text in svg.iter("text")]
    assert f"chosen: k = {k}" in words
    assert f"threshold {HNMFkConfig().silhouette:.2f}" in words
    assert f"{k} chosen" in (svg.findtext("desc") or "")
    assert svg.get("role") == "img"


def test_the_measurements_of_each_k_are_a_table(built: Built, shared: Connection) -> None:
    text = page(built, shared)
    (table,) = re.findall(r">null ratio</th>.*?</table>", text, re.DOTALL)
    assert table.count("<tr><td") == len(built.records)
    assert table.count(">chosen<") == 1


def test_the_tree_is_nested_with_words_sizes_and_silhouettes(built: Built, shared: Connection) -> None:
    text = topics_section(page(built, shared))
    items = ElementTree.fromstring(re.findall(r'<ul class="topics">.*</ul>', text, re.DOTALL)[0].replace(" open", ""))
    tree = built.tree
    assert tree.run.depth == 2, "sub-topics below super-topics"

    def check(item: ElementTree.Element, topic_id: int) -> int:
        row = next(row for row in tree.rows if row.topic_id == topic_id)
        children = tree.children[topic_id]
        head = item.find("details/summary") if children else item
        assert head is not None
        assert head.findtext("b") == (", ".join(row.terms[:6]) if row.level else "all documents")
        said = head.findtext("span") or ""
        assert f"{row.size} ({100 * row.size / tree.root.size:.0f}%)" in said
        assert row.stop_reason in said
        if children:
            assert f"k = {row.k}, silhouette {row.silhouette:.2f}" in said
        else:
            assert "silhouette" not in said.replace(row.stop_reason, "")
        below = item.findall("details/ul/li")
        assert len(below) == len(children)
        return 1 + sum(check(*pair) for pair in zip(below, [child.topic_id for child in children], strict=True))

    assert check(items[0], tree.root.topic_id) == len(tree.rows)


def test_the_page_needs_nothing_from_elsewhere(built: Built, shared: Connection) -> None:
    text = page(built, shared)
    assert not re.search(r"<script|<link|https?:|url\(|@import", text)
    assert "Built by this run" in text


def test_a_page_goes_without_the_plot_where_the_artifact_is_gone(
    built: Built, shared: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(built.tree.run.uri)
    shutil.move(folder, tmp_path / "kept")
    try:
        text = page(built, shared)
    finally:
        shutil.move(tmp_path / "kept", folder)
    assert "<svg" not in text
    assert ", ".join(built.tree.rows[1].terms[:6]) in topics_section(text)
    assert "goes without the selection of topics" in caplog.text


def test_a_run_that_built_no_topics_shows_the_served_ones(built: Built, shared: Connection) -> None:
    assert not topics_section(page(built, shared, "idle"))
    activate(shared, built.tree.run.topic_run_id)
    text = topics_section(page(built, shared, "idle"))
    assert "Of the live generation" in text
    assert "<svg" in text
    assert ", ".join(built.tree.rows[1].terms[:6]) in text


def test_topics_that_are_not_served_say_so(built: Built, shared: Connection) -> None:
    activate(shared, built.tree.run.topic_run_id)
    assert "The live generation keeps" not in page(built, shared)
    activate(shared, None)
    assert "The live generation keeps no topics." in page(built, shared)


def pictures(text: str) -> dict[str, ElementTree.Element]:
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    return {str(svg.findtext("title")): svg for svg in found}


def test_projection_curve_and_qualities_are_drawn_where_the_run_has_them(
    built: Built, shared: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tsne, "ITERATIONS", 250)  # as few as scikit-learn takes
    assert list(pictures(page(built, shared))) == ["Choice of the root's number of topics"]
    chunks, rng = Corpus(shared).chunks(None), np.random.default_rng(0)
    matrix = rng.normal(size=(len(chunks.chunk_ids), 6)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    spaces = SpaceRepository(shared)
    spaces.write_chunks(spaces.ensure(built.settings.model, "base", 6), chunks.chunk_ids, matrix)
    # One chunk is not served yet.
    rows = slice(1, None)
    turned = matrix[rows, ::-1].copy()
    activate(
        shared,
        built.tree.run.topic_run_id,
        Served(chunks.chunk_ids[rows], chunks.document_ids[rows], chunks.leaves[rows], turned),
    )
    artifacts, runs = artifact_store(built.settings), RunRepository(shared)
    history = [{"step": 2, "score": 0.5, "loss": 1.5}, {"step": 4, "score": 0.6, "loss": 1.0}]
    with artifacts.writing("models/x") as folder:
        (folder / "card.json").write_text(
            json.dumps({"history": history, "metric": "ndcg@10", "metrics": {"base_score": 0.4, "best_step": 4}})
        )
    runs.begin("train", "f", 0, RUN)
    runs.finish(
        "train",
        "f",
        0,
        RUN,
        {"refs": {"answers_model_uri": artifacts.uri("models/x")}, "counts": {}, "note": "trained"},
    )
    assert "Chunk vectors before" not in page(built, shared), "the run has published nothing"
    runs.begin("publish", "f", 0, RUN)
    runs.finish("publish", "f", 0, RUN, {"refs": {"verdict": "promoted"}, "counts": {}, "note": "promoted"})
    runs.record_evaluations(
        RUN,
        [
            EvaluationRow(None, system, "human <questions>", "ndcg@10", value, value - 0.1, value + 0.1, *[None] * 4, 9)
            for system, value in (("base model", 0.4), ("answers model + NUDGE", 0.7))
        ],
    )
    try:
        text = page(built, shared)
        drawn = pictures(text)
        assert list(drawn) == [
            "Quality of every system", "Chunk vectors before", "Chunk vectors after",
            "The training curve of the answers model", "Choice of the root's number of topics",
        ]  # fmt: skip
        stored = read_map(shared, artifacts)
        assert stored is not None
        assert list(pictures(stored.picture)) == ["Chunk vectors before", "Chunk vectors after"]
        for title in ("Chunk vectors before", "Chunk vectors after"):
            dots = [path.get("d", "") for path in drawn[title].iter("path") if "round" in path.get("style", "")]
            assert sum(path.count("M") for path in dots) == len(chunks.chunk_ids) - 1
        words = {", ".join(row.terms[:3]) for row in built.tree.children[built.tree.root.topic_id]}
        legend = text.partition('class="legend"')[2].partition("</p>")[0]
        assert words
        assert all(f"</b> {name}</span>" in legend for name in words)
        curve = drawn["The training curve of the answers model"]
        assert len(curve.findall(".//*[@id='training-answers-score']//use")) == 3
        assert "kept: step 4" in [item.text for item in curve.iter("text")]
        titles = [use.findtext("title") for use in drawn["Quality of every system"].iter("use")]
        assert [title for title in titles if title] == ["base model: 0.400", "answers model + NUDGE: 0.700"]
        shutil.rmtree(artifacts.local(artifacts.uri("models/x")))
        monkeypatch.setattr("heal_tasks.report.pictures.MIN_CHUNKS", len(chunks.chunk_ids))  # no projection
        assert "The training curve of the answers model" not in pictures(page(built, shared)), (
            "a model that is gone has no curve"
        )
    finally:
        shared.execute("DELETE FROM heal.step_result WHERE step IN ('train', 'publish')")
        shared.execute("DELETE FROM heal.evaluation")
        shared.execute("DELETE FROM heal.generation")
        spaces.drop_unused(keep=())


VERDICTS = [
    ({}, "Not finished: the sources were not read; the log of step ingest says why."),
    ({"ingest": {"refs": {}}}, "Not finished: ingest has ended, but route has not begun; run it again."),
    ({"ingest": {"refs": {}}, "route": {"refs": {}}}, "Nothing to align; no vector was written."),
    ({"nudge_live": {"refs": {}, "note": "7 rows moved"}}, "7 rows moved"),
    ({"nudge_live": {"refs": {"verdict": "7 rows moved\nNDCG rose"}, "note": "7"}}, "7 rows moved\nNDCG rose"),
    (
        {
            "choose": {"refs": {"generation_id": 3, "verdict": "answers model is promoted", "best_system": "trained"}},
            "publish": {"refs": {"generation_id": 3, "verdict": "answers model is promoted"}},
        },
        "answers model is promoted",
    ),
    (
        {
            "choose": {"refs": {"generation_id": 3, "verdict": "answers model is promoted"}},
            "publish": {"refs": {"generation_id": 2, "verdict": "Not published: recall@10 is .5."}},
        },
        "Not published: recall@10 is .5.",
    ),
    (
        {"choose": {"refs": {"generation_id": 3, "verdict": "answers model is promoted"}}},
        "Not finished: choose has ended, but publish has not begun; run the realign route again.",
    ),
    ({"ingest": {"refs": {}}, "train": None}, "Not finished: train: failed: out of memory"),
]


@pytest.mark.parametrize(("results", "verdict"), VERDICTS)
def test_the_verdict_is_that_of_the_last_deciding_step(
    auto: Connection, settings: Settings, results: dict[str, dict[str, object] | None], verdict: str
) -> None:
    runs = RunRepository(auto)
    runs.open_run("r")
    DocumentRepository(auto).apply_records("s", [Record("d", "T", "text")], lambda title, body: [("", body)])
    for step, result in results.items():
        runs.begin(step, step, 0, "r")
        if result is None:
            runs.progress(step, step, 0, "r", 0, 0, "failed: out of memory")
        else:
            runs.finish(step, step, 0, "r", {"note": "", "counts": {}, **result})
    made = load_step("report").run(settings, Manifest(run_id="r"))
    run = runs.get_run("r")
    assert run is not None
    assert run.verdict == verdict
    assert made.note == verdict.split("\n")[0]
    assert run.finished_at is not None
    assert run.report_uri == made.text("report_uri")
