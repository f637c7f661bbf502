"""How a number of topics was chosen, for people: a table's rows, and the geometry of a plot without the drawing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heal_tasks.report.geometry import LinePlot, Mark, Series, Tick, plain, round_values

if TYPE_CHECKING:
    from heal_tasks.topics.nmfk import KRecord

WIDTH, HEIGHT = 720, 364
LEFT, RIGHT, TOP, BOTTOM = 60, 656, 78, 314
# Between the frame and the outermost marks, so that none lies on an axis or a label.
MARGIN_X, MARGIN_Y = 28, 10
MOST_K_TICKS = 16


@dataclass(frozen=True)
class SelectionRow:
    """One k in a table, every cell ready to print; a value that was not measured, or holds by definition, is empty."""

    k: int
    error: str
    drop_ratio: str
    null_ratio: str
    terms: str
    documents: str
    smallest: str
    verdict: str


def selection_rows(records: "Sequence[KRecord]", chosen: int, threshold: float) -> list[SelectionRow]:
    """Say of every k what was measured and what became of it.

    Args:
        records: of one node, by ascending k.
        chosen: the number of topics that it was split into; 1 for none.
        threshold: smallest silhouette of a stable k.

    Returns:
        One row per record.
    """

    def row(record: "KRecord") -> SelectionRow:
        # For one topic, ratios and silhouettes hold by definition and would only look like measurements.
        split = record.k > 1
        return SelectionRow(
            record.k,
            f"{record.relative_error:.4f}",
            _shown(record.drop_ratio if split else None),
            _shown(record.null_ratio if split else None),
            _shown(record.term_silhouette if split else None),
            _shown(record.document_silhouette if split else None),
            str(record.smallest_topic) if split and record.smallest_topic is not None else "",
            _verdict(record, chosen, threshold),
        )

    return [row(record) for record in records]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _verdict(record: "KRecord", chosen: int, threshold: float) -> str:
    if record.k == chosen:
        return "chosen"
    if record.k == 1:
        return "no split"
    if not record.stands_out:
        return "error drop too small"
    if record.silhouette is None:
        return "not needed: a larger k passed"
    if record.accepted:
        return "passed, and so did a larger k"
    if record.silhouette < threshold:
        return f"unstable: silhouette below {threshold:.2f}"
    return "smallest topic too small"


def plot_selection(records: "Sequence[KRecord]", chosen: int, threshold: float) -> LinePlot:
    """Lay out silhouettes (left axis) and relative error (right axis) over k.

    Args:
        records: of one node, by ascending k, at least one.
        chosen: the k that was chosen; one of the records'.
        threshold: smallest silhouette of a stable k, in [-1, 1].

    Returns:
        The geometry. Silhouettes that were not measured have no mark; nor have those of k = 1, 1 by definition.
    """
    first, last = records[0].k, records[-1].k
    terms = [(record.k, record.term_silhouette) for record in records if record.k > 1]
    documents = [(record.k, record.document_silhouette) for record in records if record.k > 1]
    errors = [(record.k, record.relative_error) for record in records]
    measured = [value for _, value in (*terms, *documents) if value is not None]
    silhouettes = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if min([threshold, *measured]) >= 0 else (-1.0, -0.5, 0.0, 0.5, 1.0)
    lowest = silhouettes[0]
    error_values = round_values(min(value for _, value in errors), max(value for _, value in errors))

    def x(k: int) -> float:
        return round(LEFT + MARGIN_X + (RIGHT - LEFT - 2 * MARGIN_X) * (k - first) / max(last - first, 1), 1)

    def y_silhouette(value: float) -> float:
        # Rounding in their computation takes silhouettes a hair over 1.
        return _y((min(max(value, lowest), 1.0) - lowest) / (1 - lowest))

    def y_error(value: float) -> float:
        return _y((value - error_values[0]) / (error_values[-1] - error_values[0]))

    every = math.ceil((last - first + 1) / MOST_K_TICKS)
    return LinePlot(
        description=_description(records, chosen, threshold),
        chosen=Tick(x(chosen), f"chosen: k = {chosen}"),
        level=Tick(y_silhouette(threshold), f"threshold {threshold:.2f}"),
        x_ticks=tuple(Tick(x(k), str(k)) for k in range(first, last + 1, every)),
        left_ticks=tuple(Tick(y_silhouette(value), f"{value:.1f}") for value in silhouettes),
        right_ticks=tuple(Tick(y_error(value), plain(value, error_values)) for value in error_values),
        series=(
            Series(
                "silhouette of terms", "terms",
                tuple(
                    Mark(x(k), y_silhouette(value), f"k = {k}: silhouette of terms {value:.2f}")
                    for k, value in terms if value is not None
                ),
            ),
            Series(
                "silhouette of documents", "documents",
                tuple(
                    Mark(x(k), y_silhouette(value), f"k = {k}: silhouette of documents {value:.2f}")
                    for k, value in documents if value is not None
                ),
            ),
            Series(
                "relative error", "error",
                tuple(Mark(x(k), y_error(value), f"k = {k}: relative error {value:.4f}") for k, value in errors),
            ),
        ),
        width=WIDTH, height=HEIGHT, left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM,
    )  # fmt: skip


def _y(share: float) -> float:
    return round(BOTTOM - MARGIN_Y - (BOTTOM - TOP - 2 * MARGIN_Y) * share, 1)


def _description(records: "Sequence[KRecord]", chosen: int, threshold: float) -> str:
    stable = [
        f"k = {record.k}: terms {record.term_silhouette:.2f}, documents {record.document_silhouette:.2f}"
        for record in records
        if record.k > 1 and record.term_silhouette is not None and record.document_silhouette is not None
    ]
    return (
        f"Of k = {records[0].k} to {records[-1].k} topics, {chosen} chosen. Smallest silhouettes, threshold "
        f"{threshold:.2f}: {'; '.join(stable) or 'none measured'}. Relative error from {records[0].relative_error:.4f} "
        f"to {records[-1].relative_error:.4f}."
    )
