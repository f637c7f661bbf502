"""What all plots of the report are laid out with, in SVG user units with y downwards."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A place on an axis.

    Args:
        at: x or y, as the axis runs.
        label: what stands there.
    """

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A measured value.

    Args:
        x: centre.
        y: centre.
        label: the value in words.
    """

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Series:
    """One line of a plot.

    Args:
        name: for the legend.
        kind: chooses mark and colour.
        marks: from left to right.
    """

    name: str
    kind: str
    marks: tuple[Mark, ...]

    @property
    def points(self) -> str:
        """The marks as an SVG polyline's ``points``."""
        return " ".join(f"{mark.x},{mark.y}" for mark in self.marks)


@dataclass(frozen=True, kw_only=True)
class LinePlot:
    """Lines over one x axis, each against the left or the right y axis.

    Args:
        description: what the plot shows, in a sentence or two.
        chosen: x of what was taken.
        level: y, on the left axis, of what values are compared with.
        x_ticks: of the x axis.
        left_ticks: of the left axis.
        right_ticks: of the right axis.
        series: the lines.
        width: of the whole.
        height: of the whole.
        left: x of the left axis.
        right: x of the right axis.
        top: y of the frame's upper edge.
        bottom: y of the x axis.
    """

    description: str
    chosen: Tick
    level: Tick
    x_ticks: tuple[Tick, ...]
    left_ticks: tuple[Tick, ...]
    right_ticks: tuple[Tick, ...]
    series: tuple[Series, ...]
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


def round_values(low: float, high: float) -> list[float]:
    """Two to seven evenly spaced round numbers, the first at most ``low`` and the last at least ``high``."""
    rough = max(high - low, 1e-3) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(start, max(end, start + 1) + 1)]


def plain(value: float, values: list[float]) -> str:
    """A tick's value with as many decimals as tell it from its neighbours."""
    decimals = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))
    return f"{value:.{decimals}f}"
