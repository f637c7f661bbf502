"""The pictures: what can be read off their axes is the input, and every text is escaped."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from heal_tasks.report.plots import draw_quality, draw_selection, draw_training
from heal_tasks.store.runs.runs import EvaluationRow
from heal_tasks.topics.nmfk import KRecord

# Drawing takes .1 s, so few examples, and none made smaller.
few = settings(max_examples=12, phases=(Phase.explicit, Phase.reuse, Phase.generate))
value = st.floats(0, 1)
EVIL = "<script>alert('$x_1$ & \"y\"')</script>"


def tree(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def marks(svg: str, gid: str) -> list[tuple[float, float, str]]:
    """x, y and tooltip of the markers of one line, without the legend's."""
    name = tree(svg).get("aria-labelledby", "").split()[0].rpartition("-")[0]
    uses = tree(svg).findall(f".//*[@id='{name}-{gid}']//use")
    return [(float(use.get("x", "")), float(use.get("y", "")), use.findtext("title") or "") for use in uses]


def axes(svg: str) -> list[list[tuple[float, float, float]]]:
    """Ticks as x, y and value, of the x axis, the left and, where there is one, the right axis."""
    found = []
    for group in tree(svg).findall(".//g"):
        if re.search(r"matplotlib\.axis_\d+$", group.get("id", "")):
            ticks = [tick for tick in group.findall("g") if tick.find(".//use") is not None]
            found.append([tick_of(tick) for tick in ticks])
    return [ticks for ticks in found if ticks]


def tick_of(tick: ElementTree.Element) -> tuple[float, float, float]:
    use, text = tick.find(".//use"), tick.findtext(".//text") or ""
    assert use is not None
    return float(use.get("x", "")), float(use.get("y", "")), float(text.replace("−", "-"))


def read_off(place: float, ticks: list[tuple[float, float, float]], axis: int) -> float:
    """The value at a place, in SVG units, by the axis' first and last tick."""
    first, last = ticks[0], ticks[-1]
    return first[2] + (place - first[axis]) * (last[2] - first[2]) / (last[axis] - first[axis])


def tolerance(ticks: list[tuple[float, float, float]], axis: int) -> float:
    """The value of .03 SVG units, as coordinates have two decimals."""
    return 0.03 * abs((ticks[-1][2] - ticks[0][2]) / (ticks[-1][axis] - ticks[0][axis])) + 1e-9


def texts(svg: str) -> list[str]:
    return [str(text.text) for text in tree(svg).iter("text")]


@few
@given(value, st.lists(st.tuples(value, st.floats(0.01, 9)), min_size=1, max_size=30), st.integers(1, 50), st.data())
def test_the_training_curve_can_be_read_off_its_axes(base, validations, every, data):
    history = [
        {"step": every * number, "score": score, "loss": loss}
        for number, (score, loss) in enumerate(validations, start=1)
    ]
    best = data.draw(st.sampled_from(history))
    svg = draw_training("answers", "nDCG@10", history, base, int(best["step"]))
    across, left, right = axes(svg)
    scores, loss = marks(svg, "score"), marks(svg, "loss")
    for drawn, ticks, expected in (
        (scores, left, [base, *(pair[0] for pair in validations)]), (loss, right, [pair[1] for pair in validations]),
    ):  # fmt: skip
        assert [read_off(y, ticks, 1) for _, y, _ in drawn] == pytest.approx(expected, abs=tolerance(ticks, 1))
    steps = [read_off(x, across, 0) for x, _, _ in scores]
    assert steps == pytest.approx([0, *(entry["step"] for entry in history)], abs=tolerance(across, 0))
    assert f"kept: step {best['step']}" in texts(svg)
    assert 2 <= len(across) <= 14
    for x, y, _ in (*scores, *loss):
        assert 0 < x < 440
        assert 0 < y < 300


def test_a_validation_without_a_loss_and_the_words():
    history = [{"step": 3, "score": 0.5}, {"step": 6, "score": 0.25, "loss": 2.0}]
    svg = draw_training("topics", "topic agreement@10", history, 0.4, 3)
    assert [label for _, _, label in marks(svg, "score")] == [
        f"step {step}: topic agreement@10 {score:.4f}" for step, score in ((0, 0.4), (3, 0.5), (6, 0.25))
    ]  # fmt: skip
    assert [label for _, _, label in marks(svg, "loss")] == ["step 6: loss 2.0000"]
    assert tree(svg).findtext("desc") == (
        "topic agreement@10 on held-out texts 0.4000 before training, 0.5000 at step 3, whose weights were kept, "
        "0.2500 at the last, step 6."
    )
    assert marks(draw_training("topics", "topic agreement@10", [{"step": 1, "score": 0.5}], 0.5, 1), "loss") == []


def row(system, name, number, low, high):
    return EvaluationRow(1, system, name, "ndcg@10", number, low, high, None, None, None, None, 9)


def test_intervals_by_question_set():
    rows = [
        row("base model", "seen", 0.4, 0.3, 0.5),
        row("live generation", "seen", 0.6, 0.55, 0.65),
        row("base model", "unseen", 0.2, None, None),
    ]
    svg = draw_quality(rows)
    across, systems = axes_with_names(svg)
    drawn = marks(svg, "values")
    assert [read_off(x, across, 0) for x, _, _ in drawn] == pytest.approx([0.4, 0.6, 0.2], abs=1e-3)
    assert [label for _, _, label in drawn] == ["base model: 0.400", "live generation: 0.600", "base model: 0.200"]
    assert systems == ["base model", "live generation", "base model"]
    heights = [y for _, y, _ in drawn]
    headings = {str(text.text): float(text.get("y", "")) for text in tree(svg).iter("text")}
    assert headings["seen"] < heights[0] < heights[1] < headings["unseen"] < heights[2]
    lines = [path.get("d", "") for path in tree(svg).findall(".//*[@id='quality-intervals']/path")]
    ends = [[read_off(float(x), across, 0) for x in re.findall(r"[ML] ([\d.]+)", line)] for line in lines]
    assert ends == [pytest.approx(pair, abs=1e-3) for pair in ([0.3, 0.5], [0.55, 0.65], [0.2, 0.2])]
    assert tree(svg).findtext("desc") == (
        "seen, base model: 0.400; seen, live generation: 0.600; unseen, base model: 0.200"
    )


def axes_with_names(svg):
    """Ticks of the x axis, and labels of the y axis."""
    groups = [group for group in tree(svg).iter("g") if "matplotlib.axis" in group.get("id", "")]
    across = [tick_of(tick) for tick in groups[0].findall("g") if tick.find(".//use") is not None]
    return across, [str(text.text) for text in groups[1].iter("text")]


def test_texts_are_escaped_and_never_set_as_formulas():
    svg = draw_quality([row(EVIL, f"{EVIL} of people", 0.4, 0.3, 0.5)])
    assert "<script" not in svg
    assert EVIL in texts(svg), "as it is, $ included"
    assert f"{EVIL} of people" in texts(svg)
    assert EVIL in str(tree(svg).findtext("desc"))
    assert EVIL in marks(svg, "values")[0][2]


def record(k: int, error: float, terms: float | None = None, documents: float | None = None) -> KRecord:
    return KRecord(
        k=k, relative_error=error, drop=0.05, drop_ratio=0.8, null_ratio=2.0, stands_out=True, iterations=1,
        term_silhouette=terms, document_silhouette=documents,
    )  # fmt: skip


SILHOUETTES = st.none() | st.floats(-1, 1.000001)
ONE = record(1, 0.95, 1.0, 1.0)


@st.composite
def selections(draw: st.DrawFn) -> tuple[list[KRecord], int, float]:
    """Records as NMFk makes them, except that any k may lack its silhouettes; a chosen k; a threshold."""
    records = [ONE]
    for k, error in enumerate(draw(st.lists(value, max_size=64)), start=2):
        terms, documents = draw(SILHOUETTES), draw(SILHOUETTES)
        pair = (None, None) if terms is None or documents is None else (terms, documents)
        records.append(record(k, error, *pair))
    return records, draw(st.sampled_from(records)).k, draw(st.floats(-1, 1))


@few
@given(selections())
def test_the_selection_can_be_read_off_its_axes(selection: tuple[list[KRecord], int, float]) -> None:
    records, chosen, threshold = selection
    svg = draw_selection(records, chosen, threshold)
    across, left, right = axes(svg)
    measured = [item for item in records if item.k > 1 and item.silhouette is not None]
    for gid, ticks, expected in (
        ("terms", left, [(item.k, item.term_silhouette) for item in measured]),
        ("documents", left, [(item.k, item.document_silhouette) for item in measured]),
        ("errors", right, [(item.k, item.relative_error) for item in records]),
    ):
        drawn = marks(svg, gid)
        assert [int(label.split(":")[0][4:]) for _, _, label in drawn] == [k for k, _ in expected]
        values = [read_off(y, ticks, 1) for _, y, _ in drawn]
        assert values == pytest.approx([number for _, number in expected], abs=tolerance(ticks, 1))
        for x, y, _ in drawn:
            assert 0 < x < 440
            assert 0 < y < 320
    if len(across) > 1:
        ks = [read_off(x, across, 0) for x, _, _ in marks(svg, "errors")]
        assert ks == pytest.approx([item.k for item in records], abs=tolerance(across, 0))
    assert 1 <= len(across) <= 14
    assert f"chosen: k = {chosen}" in texts(svg)
    assert f"threshold {threshold:.2f}" in texts(svg)


def test_one_mark_per_measured_value_and_none_for_a_k_of_one() -> None:
    svg = draw_selection([ONE, record(2, 0.9), record(3, 0.86, 0.9, 0.95)], 3, 0.8)
    assert [len(marks(svg, gid)) for gid in ("terms", "documents", "errors")] == [1, 1, 3]
    described = tree(svg).findtext("desc") or ""
    assert "3 chosen" in described
    assert "k = 3: terms 0.90, documents 0.95" in described
    assert "k = 2" not in described


def test_the_same_picture_is_the_same_svg_and_needs_nothing_from_elsewhere() -> None:
    rows = [row("base model", "seen", 0.4, 0.3, 0.5)]
    svg = draw_quality(rows)
    assert draw_quality(rows) == svg
    assert not re.search(r"https?:|url\(|@import|<style|<metadata|#[0-9a-f]{6}", svg)
    root = tree(svg)
    assert root.get("viewBox", "").startswith("0 0 440 ")
    assert (root.get("width"), root.get("role")) == (None, "img")
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert set(root.get("aria-labelledby", "").split()) <= set(ids)
    assert {use.get("href", "")[1:] for use in root.iter("use")} <= set(ids)
