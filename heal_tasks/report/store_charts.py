"""Curves of quality over time for the page of the store: places in a picture, which a template writes as SVG.

Drawn by hand and not by matplotlib, which would take a second and 60 MB in Airflow's API server.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from heal_tasks.core.metrics import metric_name
from heal_tasks.report.store_state import Measured

WIDTH, HEIGHT = 400, 180
LEFT, RIGHT, TOP, BOTTOM = 38, 10, 10, 24
SIZES = (WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM)
"""Sizes that the template uses."""
BY_TEXT = ", by text"
"""Suffix of the sets of ``heal.evaluation`` that were searched by text."""


class Point(NamedTuple):
    """A measurement in the picture."""

    x: float
    y: float
    low: float  # y of the interval's ends
    high: float
    label: str


class Curve(NamedTuple):
    """Quality by one query path, oldest first."""

    name: str
    colour: int  # number of the CSS variable
    points: list[Point]
    latest: Measured

    @property
    def line(self) -> str:
        """The points as an SVG polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


class Chart(NamedTuple):
    """The curves of one question set on one scale."""

    name: str
    metric: str
    curves: list[Curve]
    ticks: list[tuple[float, str]]  # y and value
    promotions: list[float]  # x of the runs that promoted a generation
    first: datetime
    last: datetime


def quality_charts(measured: Sequence[Measured]) -> list[Chart]:
    """Draw a chart for every question set, and last one for topics; rows are by ascending time."""
    sets: dict[tuple[str, str], list[Measured]] = {}
    for row in measured:
        sets.setdefault((row.question_set.removesuffix(BY_TEXT), row.metric), []).append(row)
    return [_chart(*key, rows) for key, rows in sorted(sets.items(), key=lambda item: (item[0][1], item[0][0]))]


def _chart(name: str, metric: str, rows: Sequence[Measured]) -> Chart:
    times = sorted({row.started_at for row in rows})
    # Runs are at equal distances: by time a week without runs would press a night of tries into one place.
    step = (WIDTH - LEFT - RIGHT) / max(len(times) - 1, 1)
    x = {
        when: LEFT + number * step if len(times) > 1 else (WIDTH + LEFT - RIGHT) / 2
        for number, when in enumerate(times)
    }
    low = min(row.value if row.low is None else row.low for row in rows)
    high = max(row.value if row.high is None else row.high for row in rows)
    values = _ticks(low, high)
    span = values[-1] - values[0]

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - values[0]) / span * (HEIGHT - TOP - BOTTOM)

    curves = []
    for path, label, colour in ((BY_TEXT, "by text (heal.find)", 0), ("", "by encoder", 1)):
        own = [row for row in rows if row.question_set == name + path]
        if own:
            label = label if metric.startswith("ndcg") else "nearest documents"
            points = [
                Point(
                    x[row.started_at], y(row.value), y(row.value if row.low is None else row.low),
                    y(row.value if row.high is None else row.high),
                    f"{row.started_at:%Y-%m-%d %H:%M}, {label}: {row.value:.3f}",
                )
                for row in own
            ]  # fmt: skip
            curves.append(Curve(label, colour, points, own[-1]))
    promotions = sorted({x[row.started_at] for row in rows if row.promoted})
    ticks = [(y(value), f"{value:.2f}") for value in values]
    return Chart(name, metric_name(metric), curves, ticks, promotions, times[0], times[-1])


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values that enclose an interval."""
    span = max(high - low, 0.04)
    step = next(size for size in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if span / size <= 4)
    first, last = math.floor(low / step), math.ceil(round(high / step, 6))
    if last - first < 2:
        first = last - 2
    return [number * step for number in range(first, last + 1)]
