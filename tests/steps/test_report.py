"""The run's page: the plot of the root's k and the tree, of a tree that the real step built."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.manifest import Manifest
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.vectors import Served, VectorRepository
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository
from tests.steps.conftest import RUN, Built


def page(built: Built, conn: Connection, run_id: str = RUN) -> str:
    """The page as it is now, not as it was reported before."""
    conn.execute("DELETE FROM heal.step_result WHERE step = 'report'")
    made = load_step("report").run(built.settings, Manifest(run_id=run_id))
    return (Path(made.text("report_uri")) / "report.html").read_text()


def figure(text: str) -> ElementTree.Element:
    (found,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    return ElementTree.fromstring(found)


def topics_section(text: str) -> str:
    return text.partition("<h2>Topics</h2>")[2]


def activate(conn: Connection, topic_run_id: int | None, served: Served | None = None) -> int:
    generations = GenerationRepository(conn)
    made = generations.create(
        kind="trained", run_id="r", model_uri="m", model_sha256="s", topic_run_id=topic_run_id,
        dims=served.vectors.shape[1] if served else 2,
    )  # fmt: skip
    if served:
        VectorRepository(conn).write_served(made, served)
    generations.set_state(made.generation_id, "ready")
    generations.activate(made.generation_id, lock_timeout_ms=1000)
    return made.generation_id


def test_the_plot_has_every_measured_point_and_the_chosen_k(built: Built, shared: Connection) -> None:
    svg = figure(page(built, shared))
    records, k = built.records, built.tree.root.k
    assert k == 3, "the planted super-topics"
    marks = {kind: svg.findall(f".//*[@class='{kind} mark']") for kind in ("terms", "documents", "error")}
    measured = [record for record in records if record.k > 1 and record.silhouette is not None]
    assert measured
    # The legend has one of each.
    assert {kind: len(found) - 1 for kind, found in marks.items()} == {
        "terms": len(measured), "documents": len(measured), "error": len(records),
    }  # fmt: skip
    for record in measured:
        titles = [mark.findtext("title") for mark in marks["terms"]]
        assert f"k = {record.k}: silhouette of terms {record.term_silhouette:.2f}" in titles
    words = [text.text for text in svg.iter("text")]
    assert f"chosen: k = {k}" in words
    assert f"threshold {built.settings.topic_silhouette:.2f}" in words
    assert f"{k} chosen" in (svg.findtext("desc") or "")
    assert svg.get("role") == "img"


def test_the_numbers_behind_the_plot(built: Built, shared: Connection) -> None:
    text = page(built, shared)
    (table,) = re.findall(r"Null ratio</th>.*?</table>", text, re.DOTALL)
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
    assert "Of the active generation" in text
    assert "<svg" in text
    assert ", ".join(built.tree.rows[1].terms[:6]) in text


def test_topics_that_are_not_served_say_so(built: Built, shared: Connection) -> None:
    activate(shared, built.tree.run.topic_run_id)
    assert "The active generation keeps" not in page(built, shared)
    activate(shared, None)
    assert "The active generation keeps no topics." in page(built, shared)


def pictures(text: str) -> dict[str, ElementTree.Element]:
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg viewBox.*?</svg>", text, re.DOTALL)]
    return {str(svg.findtext("title")): svg for svg in found}


def test_projection_curve_and_qualities_are_drawn_where_the_run_has_them(built: Built, shared: Connection) -> None:
    assert list(pictures(page(built, shared))) == ["How the number of topics of the root was chosen"]
    chunks, rng = Corpus(shared).chunks(None), np.random.default_rng(0)
    generations, vectors = GenerationRepository(shared), VectorRepository(shared)
    matrix = rng.normal(size=(len(chunks.chunk_ids), 6)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    base = generations.create(kind="baseline", run_id="r", model_uri=built.settings.model, model_sha256="base", dims=6)
    vectors.write_base(base, chunks.chunk_ids, matrix)
    # One chunk is not served yet.
    rows = slice(1, None)
    turned = matrix[rows, ::-1].copy()
    activate(
        shared,
        built.tree.run.topic_run_id,
        Served(chunks.chunk_ids[rows], chunks.document_ids[rows], chunks.leaves[rows], turned),
    )
    artifacts, runs = artifact_store(built.settings), RunRepository(shared)
    history = [{"step": 2, "ndcg": 0.5, "loss": 1.5}, {"step": 4, "ndcg": 0.6, "loss": 1.0}]
    with artifacts.writing("models/x") as folder:
        (folder / "card.json").write_text(
            json.dumps({"history": history, "metrics": {"base_ndcg": 0.4, "best_step": 4}})
        )
    runs.begin("train", "f", 0, RUN)
    runs.finish("train", "f", 0, {"refs": {"model_uri": artifacts.uri("models/x")}, "counts": {}, "note": "trained"})
    runs.record_evaluations(
        RUN,
        [
            EvaluationRow(None, system, "human <questions>", "ndcg@10", value, value - 0.1, value + 0.1, *[None] * 4, 9)
            for system, value in (("base model", 0.4), ("trained + NUDGE", 0.7))
        ],
    )
    try:
        text = page(built, shared)
        drawn = pictures(text)
        assert list(drawn) == [
            "nDCG@10 of every system", "Chunk vectors before and after", "The training's curve",
            "How the number of topics of the root was chosen",
        ]  # fmt: skip
        projection = drawn["Chunk vectors before and after"]
        dots = [str(path.get("d")).count("h0") for path in projection.findall(".//path[@class='dots']")]
        assert sum(dots) == 2 * (len(chunks.chunk_ids) - 1)
        words = {", ".join(row.terms[:3]) for row in built.tree.children[built.tree.root.topic_id]}
        legend = text.partition('class="legend"')[2].partition("</p>")[0]
        assert words
        assert all(f"</svg> {name}</span>" in legend for name in words)
        curve = drawn["The training's curve"]
        assert len(curve.findall(".//circle[@class='ndcg mark']")) == 3
        assert "kept: step 4" in [item.text for item in curve.iter("text")]
        titles = [mark.findtext("title") for mark in drawn["nDCG@10 of every system"].iter("circle")]
        assert titles == ["base model: 0.400", "trained + NUDGE: 0.700"]
        shutil.rmtree(artifacts.local(artifacts.uri("models/x")))
        assert "The training's curve" not in pictures(page(built, shared)), "a model that is gone has no curve"
    finally:
        shared.execute("DELETE FROM heal.step_result WHERE step = 'train'")
        shared.execute("DELETE FROM heal.evaluation")
