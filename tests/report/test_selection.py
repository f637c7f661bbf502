import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.report.geometry import LinePlot, Tick
from heal_tasks.report.selection import plot_selection, selection_rows
from heal_tasks.topics.nmfk import KRecord

ERRORS = st.floats(0, 1)
SILHOUETTES = st.none() | st.floats(-1, 1.000001)
ONE = KRecord(1, 0.95, 0.05, 0, 1, True, 1, 1.0, 1.0, 1.0, 300, True)


@st.composite
def selections(draw: st.DrawFn) -> tuple[list[KRecord], int, float]:
    """Records as NMFk makes them, except that any k may lack its silhouettes; a chosen k; a threshold."""
    records = [ONE]
    for k, error, term, document in zip(
        range(2, 66), draw(st.lists(ERRORS, max_size=64)), draw(st.lists(SILHOUETTES, min_size=64, max_size=64)),
        draw(st.lists(SILHOUETTES, min_size=64, max_size=64)), strict=False,
    ):  # fmt: skip
        pair = (None, None) if term is None or document is None else (term, document)
        records.append(KRecord(k, error, 0.01, 0.5, 2.0, True, 1, *pair))
    return records, draw(st.sampled_from(records)).k, draw(st.floats(-1, 1))


def value_at(y: float, ticks: tuple[Tick, ...]) -> float:
    """What an axis says of a height."""
    low, high = ticks[0], ticks[-1]
    return float(low.label) + (float(high.label) - float(low.label)) * (y - low.at) / (high.at - low.at)


def tolerance(ticks: tuple[Tick, ...]) -> float:
    """A tenth of a unit, to which places are rounded, in the axis' values."""
    return 0.11 * abs((float(ticks[-1].label) - float(ticks[0].label)) / (ticks[-1].at - ticks[0].at)) + 1e-9


def assert_inside(plot: LinePlot) -> None:
    for series in plot.series:
        for mark in series.marks:
            assert plot.left < mark.x < plot.right
            assert plot.top < mark.y < plot.bottom
    for tick in (*plot.x_ticks, plot.chosen):
        assert plot.left < tick.at < plot.right
    for tick in (*plot.left_ticks, *plot.right_ticks, plot.level):
        assert plot.top < tick.at < plot.bottom
    assert 0 < plot.left < plot.right < plot.width
    assert 0 < plot.top < plot.bottom < plot.height


@given(selections())
def test_everything_is_inside_the_frame_and_reads_as_what_was_measured(
    selection: tuple[list[KRecord], int, float],
) -> None:
    records, chosen, threshold = selection
    plot = plot_selection(records, chosen, threshold)
    assert_inside(plot)
    assert plot.left_ticks[-1].label == "1.0"
    measured = [record for record in records if record.k > 1 and record.silhouette is not None]
    expected = [
        ([record.k for record in measured], [record.term_silhouette for record in measured], plot.left_ticks),
        ([record.k for record in measured], [record.document_silhouette for record in measured], plot.left_ticks),
        ([record.k for record in records], [record.relative_error for record in records], plot.right_ticks),
    ]
    for series, (ks, values, ticks) in zip(plot.series, expected, strict=True):
        assert [int(mark.label.split(":")[0][4:]) for mark in series.marks] == ks
        assert series.points.count(",") == len(ks)
        for mark, value in zip(series.marks, values, strict=True):
            assert value_at(mark.y, ticks) == pytest.approx(min(value or 0.0, 1.0), abs=tolerance(ticks))
    assert value_at(plot.level.at, plot.left_ticks) == pytest.approx(threshold, abs=tolerance(plot.left_ticks))
    assert (
        plot.chosen.at == {record.k: mark.x for record, mark in zip(records, plot.series[2].marks, strict=True)}[chosen]
    )


@given(selections())
def test_axes_run_one_way_and_have_few_labels(selection: tuple[list[KRecord], int, float]) -> None:
    plot = plot_selection(*selection)
    across = [mark.x for mark in plot.series[2].marks]
    assert across == sorted(set(across))
    for ticks in (plot.left_ticks, plot.right_ticks):
        upwards = [tick.at for tick in ticks]
        assert upwards == sorted(set(upwards), reverse=True)
        assert len({tick.label for tick in ticks}) == len(ticks)
        assert 2 <= len(ticks) <= 7
    assert 1 <= len(plot.x_ticks) <= 16


def test_one_mark_per_measured_value_and_none_for_a_k_of_one() -> None:
    records = [ONE, KRecord(2, 0.9, 0.05, 1.0, 3.0, True, 1), KRecord(3, 0.86, 0.04, 0.8, 2.0, True, 1, 0.9, 0.95, 0.9)]
    plot = plot_selection(records, 3, 0.8)
    assert [len(series.marks) for series in plot.series] == [1, 1, 3]
    assert [tick.label for tick in plot.left_ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [tick.label for tick in plot.right_ticks] == ["0.85", "0.90", "0.95"]
    assert plot.chosen.label == "chosen: k = 3"
    assert "3 chosen" in plot.description
    assert "k = 3: terms 0.90, documents 0.95" in plot.description
    assert "k = 2" not in plot.description


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        (ONE, "no split"),
        (KRecord(4, 0.8, 0.1, 0.5, 2.0, True, 1, 0.9, 0.9, 0.9, 20, True), "chosen"),
        (KRecord(2, 0.8, 0.1, 0.5, 2.0, True, 1), "not needed: a larger k passed"),
        (KRecord(3, 0.8, 0.1, 0.5, 2.0, True, 1, 0.9, 0.9, 0.9, 20, True), "passed, and so did a larger k"),
        (KRecord(5, 0.8, 0.1, 0.5, 2.0, True, 1, 0.9, 0.7, 0.8, 20), "unstable: silhouette below 0.80"),
        (KRecord(6, 0.8, 0.1, 0.5, 2.0, True, 1, 0.9, 0.9, 0.9, 3), "smallest topic too small"),
        (KRecord(7, 0.8, 0.1, 0.1, 0.9, False, 1), "error drop too small"),
        (KRecord(8, 0.8, 0.1, 0.9, 0.9, False, 1, 0.2, 0.2, 0.2, 3), "error drop too small"),
    ],
)
def test_what_became_of_each_k(record: KRecord, verdict: str) -> None:
    (row,) = selection_rows([record], 4, 0.8)
    assert row.verdict == verdict


def test_a_table_shows_what_was_measured_and_nothing_else() -> None:
    one, two, three = selection_rows(
        [ONE, KRecord(2, 0.9, 0.05, 1.0, 3.0, True, 1), KRecord(3, 0.86, 0.04, 0.8, 2.0, True, 1, 0.9, 0.95, 0.9, 20)],
        3,
        0.8,
    )
    assert (one.error, one.drop_ratio, one.terms, one.smallest) == ("0.9500", "", "", "")
    assert (two.drop_ratio, two.null_ratio, two.terms, two.documents) == ("1.00", "3.00", "", "")
    assert (three.terms, three.documents, three.smallest) == ("0.90", "0.95", "20")
