"""A training's curve and the quality of all systems, for people: geometry without the drawing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from heal_tasks.core.types import JsonObject
from heal_tasks.report.geometry import LinePlot, Mark, Series, Tick, plain, round_values
from heal_tasks.store.runs.runs import EvaluationRow

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 656, 62, 252
MOST_STEP_TICKS = 12

QUALITY_LEFT, QUALITY_TOP, ROW, HEADING = 190, 14, 22, 26


def plot_training(history: Sequence[JsonObject], base_ndcg: float, best_step: int) -> LinePlot:
    """Lay out nDCG@10 on held-out questions (left axis) and mean loss (right axis) over optimiser steps.

    Args:
        history: one entry per look, at least one, by ascending step: ``step``, ``ndcg`` and, where it was logged,
            ``loss``, the mean since the look before.
        base_ndcg: of the base model, which is step 0.
        best_step: the step whose weights were kept.

    Returns:
        The geometry.
    """
    ndcg = [(0, base_ndcg), *((int(entry["step"]), float(entry["ndcg"])) for entry in history)]
    losses = [(int(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry]
    last = ndcg[-1][0]
    qualities = round_values(min(value for _, value in ndcg), max(value for _, value in ndcg))
    rounded = round_values(min(value for _, value in losses), max(value for _, value in losses)) if losses else []
    best_ndcg = dict(ndcg)[best_step]

    def x(step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / last, 1)

    def y(value: float, values: list[float]) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - values[0]) / (values[-1] - values[0]), 1)

    every = math.ceil(len(ndcg) / MOST_STEP_TICKS)
    return LinePlot(
        description=f"nDCG@10 on held-out questions {base_ndcg:.4f} before training, {best_ndcg:.4f} at step "
        f"{best_step}, whose weights were kept, {ndcg[-1][1]:.4f} at the last, step {last}.",
        level=Tick(y(base_ndcg, qualities), "base model"),
        chosen=Tick(x(best_step), f"kept: step {best_step}"),
        x_ticks=tuple(Tick(x(step), str(step)) for step, _ in ndcg[::every]),
        left_ticks=tuple(Tick(y(value, qualities), plain(value, qualities)) for value in qualities),
        right_ticks=tuple(Tick(y(value, rounded), plain(value, rounded)) for value in rounded),
        series=(
            Series(
                "nDCG@10, held-out questions", "ndcg",
                tuple(Mark(x(step), y(value, qualities), f"step {step}: nDCG@10 {value:.4f}") for step, value in ndcg),
            ),
            Series(
                "mean loss", "loss",
                tuple(Mark(x(step), y(value, rounded), f"step {step}: loss {value:.4f}") for step, value in losses),
            ),
        ),
        width=WIDTH, height=HEIGHT, left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM,
    )  # fmt: skip


@dataclass(frozen=True)
class QualityRow:
    """A system on a question set: its interval from ``low`` to ``high`` around ``mark``, x of both ends."""

    system: str
    mark: Mark
    low: float
    high: float


@dataclass(frozen=True)
class QualityPlot:
    """Where everything stands, in SVG user units with y downwards.

    Args:
        description: what the plot shows, in a sentence or two.
        headings: y and name of each question set.
        rows: all systems on all question sets.
        ticks: of the x axis, below the rows.
        height: of the whole.
        bottom: y of the x axis.
    """

    description: str
    headings: tuple[Tick, ...]
    rows: tuple[QualityRow, ...]
    ticks: tuple[Tick, ...]
    height: int
    bottom: int
    width: int = WIDTH
    left: int = QUALITY_LEFT
    right: int = RIGHT
    top: int = QUALITY_TOP


def plot_quality(rows: Sequence[EvaluationRow]) -> QualityPlot:
    """Lay out a metric of every system with its interval, question set by question set.

    Args:
        rows: of one metric, at least one, those of a question set together.

    Returns:
        The geometry.
    """
    values = [value for row in rows for value in (row.low, row.value, row.high) if value is not None]
    rounded = round_values(min(values), max(values))

    def x(value: float | None, instead: float) -> float:
        share = ((instead if value is None else value) - rounded[0]) / (rounded[-1] - rounded[0])
        return round(QUALITY_LEFT + (RIGHT - QUALITY_LEFT) * share, 1)

    y, headings, drawn, said = float(QUALITY_TOP), list[Tick](), list[QualityRow](), list[str]()
    for name, group in groupby(rows, key=lambda row: row.question_set):
        headings.append(Tick(y + 14, name))
        y += HEADING
        for row in group:
            label = f"{row.system}: {row.value:.3f}"
            drawn.append(
                QualityRow(
                    row.system, Mark(x(row.value, 0), y + ROW / 2, label), x(row.low, row.value), x(row.high, row.value)
                )
            )
            said.append(f"{name}, {label}")
            y += ROW
    bottom = round(y) + 4
    return QualityPlot(
        "; ".join(said), tuple(headings), tuple(drawn),
        tuple(Tick(x(value, 0), plain(value, rounded)) for value in rounded), bottom + 40, bottom,
    )  # fmt: skip
