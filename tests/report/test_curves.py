"""Curves and whiskers: what is read off the axes is what went in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.report.curves import BOTTOM, LEFT, RIGHT, TOP, plot_quality, plot_training
from heal_tasks.store.runs.runs import EvaluationRow

value = st.floats(0, 1)


def axis(ticks):
    first, last = ticks[0], ticks[-1]
    scale = (float(last.label) - float(first.label)) / (last.at - first.at)
    return lambda at: float(first.label) + (at - first.at) * scale


@given(value, st.lists(st.tuples(value, st.floats(0.01, 9)), min_size=1, max_size=30), st.integers(1, 50), st.data())
def test_the_curve_can_be_read_off_its_axes(base, looks, every, data):
    history = [
        {"step": every * number, "ndcg": ndcg, "loss": loss} for number, (ndcg, loss) in enumerate(looks, start=1)
    ]
    best = data.draw(st.sampled_from(history))
    plot = plot_training(history, base, int(best["step"]))
    ndcg, loss = plot.series
    quality, step, losses = axis(plot.left_ticks), axis(plot.x_ticks), axis(plot.right_ticks)
    # Places are rounded to a tenth of a unit.
    tolerance = 0.06 * abs(quality(TOP) - quality(BOTTOM)) / (BOTTOM - TOP) + 1e-9
    assert [quality(mark.y) for mark in ndcg.marks] == pytest.approx([base, *(x[0] for x in looks)], abs=tolerance)
    assert quality(plot.level.at) == pytest.approx(base, abs=tolerance)
    tolerance = 0.06 * abs(losses(TOP) - losses(BOTTOM)) / (BOTTOM - TOP) + 1e-9
    assert [losses(mark.y) for mark in loss.marks] == pytest.approx([x[1] for x in looks], abs=tolerance)
    # Even a tick at a rounded place tells the first step from the second.
    assert step(plot.chosen.at) == pytest.approx(best["step"], abs=0.2 * history[-1]["step"] / (RIGHT - LEFT) * 12)
    assert all(LEFT <= mark.x <= RIGHT and TOP <= mark.y <= BOTTOM for mark in (*ndcg.marks, *loss.marks))
    assert len(plot.x_ticks) <= 12


def test_a_look_without_a_loss_and_the_words():
    plot = plot_training([{"step": 3, "ndcg": 0.5}, {"step": 6, "ndcg": 0.25, "loss": 2.0}], 0.4, 3)
    assert [mark.label for mark in plot.series[0].marks] == [
        "step 0: nDCG@10 0.4000", "step 3: nDCG@10 0.5000", "step 6: nDCG@10 0.2500",
    ]  # fmt: skip
    assert [mark.label for mark in plot.series[1].marks] == ["step 6: loss 2.0000"]
    assert plot.chosen.label == "kept: step 3"
    assert plot.description == (
        "nDCG@10 on held-out questions 0.4000 before training, 0.5000 at step 3, whose weights were kept, 0.2500 at "
        "the last, step 6."
    )
    assert plot_training([{"step": 1, "ndcg": 0.5}], 0.5, 1).right_ticks == ()


def row(system, name, number, low, high):
    return EvaluationRow(1, system, name, "ndcg@10", number, low, high, None, None, None, None, 9)


def test_whiskers_by_question_set():
    rows = [
        row("base", "seen", 0.4, 0.3, 0.5),
        row("live", "seen", 0.6, 0.55, 0.65),
        row("base", "unseen", 0.2, None, None),
    ]
    plot = plot_quality(rows)
    assert [heading.label for heading in plot.headings] == ["seen", "unseen"]
    quality = axis(plot.ticks)
    assert [item.system for item in plot.rows] == ["base", "live", "base"]
    assert [quality(item.mark.x) for item in plot.rows] == pytest.approx([0.4, 0.6, 0.2], abs=1e-3)
    assert [quality(item.low) for item in plot.rows] == pytest.approx([0.3, 0.55, 0.2], abs=1e-3)
    assert [quality(item.high) for item in plot.rows] == pytest.approx([0.5, 0.65, 0.2], abs=1e-3)
    heights = [plot.headings[0].at, plot.rows[0].mark.y, plot.rows[1].mark.y, plot.headings[1].at, plot.rows[2].mark.y]
    assert heights == sorted(heights)
    assert heights[-1] < plot.bottom < plot.height
    assert plot.description == "seen, base: 0.400; seen, live: 0.600; unseen, base: 0.200"
