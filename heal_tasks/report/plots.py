"""The pictures of a run's page: quality, training curve, chunk vectors on a plane, choice of the number of topics."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from heal_tasks.core.types import JsonObject
from heal_tasks.report.svg import PALETTE, new_figure, to_svg
from heal_tasks.report.tsne import Plane, estimate_density
from heal_tasks.store.runs.runs import EvaluationRow

if TYPE_CHECKING:
    from heal_tasks.topics.nmfk import KRecord

WIDTH, HEIGHT, SIDE = 440, 300, 380
BLUE, ORANGE, GREEN = PALETTE[:3]
INK, GREY = "black", "#888888"


def draw_quality(rows: Sequence[EvaluationRow]) -> Markup:
    """Draw a metric of every system with its interval; at least one row, those of a question set together."""
    # A line for every row, below a heading for every question set.
    sets = list(dict.fromkeys(row.question_set for row in rows))
    places = [number + sets.index(row.question_set) + 1 for number, row in enumerate(rows)]
    lines = len(rows) + len(sets)
    labels = [f"{row.system}: {row.value:.3f}" for row in rows]
    described = "; ".join(f"{row.question_set}, {label}" for row, label in zip(rows, labels, strict=True))
    with new_figure(WIDTH, 22 * lines + 60) as figure:
        axes = figure.add_subplot(xlabel="nDCG@10 or topic agreement@10", ylim=(lines - 0.4, -0.7))
        axes.spines[["left", "right"]].set_visible(False)
        axes.grid(axis="x")
        axes.hlines(
            places,
            [row.value if row.low is None else row.low for row in rows],
            [row.value if row.high is None else row.high for row in rows],
            colors=BLUE, linewidth=2, gid="intervals",
        )  # fmt: skip
        axes.plot([row.value for row in rows], places, "o", color=BLUE, gid="values")
        axes.set_yticks(places, [row.system for row in rows])
        axes.tick_params(axis="y", length=0)
        for name in sets:
            first = min(place for place, row in zip(places, rows, strict=True) if row.question_set == name)
            # Right-aligned, because a long name would be cut off at the right edge.
            axes.text(1, first - 1, name, transform=axes.get_yaxis_transform(), weight="bold", va="center", ha="right")
        return to_svg(figure, "quality", "Quality of every system", described, {"values": labels})


def draw_training(
    objective: str, metric: str, history: Sequence[JsonObject], base_score: float, best_step: int
) -> Markup:
    """Draw the metric of the validations (left axis) and mean loss (right axis) over optimiser steps.

    ``history`` has one entry per validation, at least one, by ascending step: ``step``, ``score`` and, where it was
    logged, ``loss``, the mean since the validation before. ``base_score`` belongs to step 0.
    """
    scores = {0: base_score} | {int(entry["step"]): float(entry["score"]) for entry in history}
    losses = {int(entry["step"]): float(entry["loss"]) for entry in history if "loss" in entry}
    last = max(scores)
    with new_figure(WIDTH, HEIGHT) as figure:
        left, right = _two_axes(figure, "optimiser step", metric, "mean loss")
        left.axhline(base_score, color=INK, linestyle="--", linewidth=1, label="base model")
        labels = _plot(
            left, "score", scores, f"step {{}}: {metric} {{:.4f}}",
            label=f"{metric}, held out", color=BLUE, marker="o", markersize=5,
        ) | _plot(
            right, "loss", losses, "step {}: loss {:.4f}",
            label="mean loss (right axis)", color=ORANGE, marker="o", markersize=4, linestyle="--",
        )  # fmt: skip
        _finish(figure, left, right, best_step, f"kept: step {best_step}")
        return to_svg(
            figure, f"training-{objective}", f"The training curve of the {objective} model",
            f"{metric} on held-out texts {base_score:.4f} before training, {scores[best_step]:.4f} at step "
            f"{best_step}, whose weights were kept, {scores[last]:.4f} at the last, step {last}.",
            labels,
        )  # fmt: skip


def draw_selection(records: "Sequence[KRecord]", chosen: int, threshold: float) -> Markup:
    """Draw silhouettes (left axis) and relative error (right axis) over the number of topics k.

    The records, at least one, are of one node, by ascending k; ``threshold`` is the smallest silhouette of a stable k.
    """
    # Silhouettes of k = 1 are 1 by definition.
    stable = [record for record in records if record.k > 1 and record.silhouette is not None]
    terms = {record.k: float(record.term_silhouette or 0) for record in stable}
    documents = {record.k: float(record.document_silhouette or 0) for record in stable}
    errors = {record.k: record.relative_error for record in records}
    measured = "; ".join(f"k = {k}: terms {terms[k]:.2f}, documents {documents[k]:.2f}" for k in terms)
    with new_figure(WIDTH, HEIGHT + 20) as figure:
        left, right = _two_axes(figure, "k, number of topics", "smallest silhouette", "relative error")
        lowest = min([threshold, *terms.values(), *documents.values()])
        left.set_ylim(-0.05 if lowest >= 0 else -1.1, 1.05)
        labels = _plot(
            right, "errors", errors, "k = {}: relative error {:.4f}",
            label="relative error (right axis)", color=INK, marker="x", linestyle=":",
        ) | _plot(
            left, "terms", terms, "k = {}: silhouette of terms {:.2f}",
            label="silhouette of terms", color=BLUE, marker="o", markersize=9, fillstyle="none",
        ) | _plot(
            left, "documents", documents, "k = {}: silhouette of documents {:.2f}",
            label="silhouette of documents", color=ORANGE, marker="s", markersize=4,
        )  # fmt: skip
        left.axhline(threshold, color=INK, linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
        _finish(figure, left, right, chosen, f"chosen: k = {chosen}")
        return to_svg(
            figure, "selection", "Choice of the root's number of topics",
            f"Of k = {records[0].k} to {records[-1].k} topics, {chosen} chosen. Smallest silhouettes, threshold "
            f"{threshold:.2f}: {measured or 'none measured'}. Relative error from {records[0].relative_error:.4f} "
            f"to {records[-1].relative_error:.4f}.",
            labels,
        )  # fmt: skip


def draw_plane(plane: Plane, colours: NDArray[np.integer]) -> Markup:
    """Draw chunks as dots in the colours of their topics, with contours of each topic's density.

    ``colours``, shape (n,), has the number of each chunk's colour in ``PALETTE``; -1 is grey without contours.
    """
    described = f"{len(plane.points)} chunks on a plane by t-SNE{plane.note and f'; {plane.note}'}."
    with new_figure(SIDE, SIDE + 44) as figure:
        axes = figure.add_subplot(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[], yticks=[])
        axes.spines["top"].set_visible(True)
        axes.set_title(plane.title, loc="left", weight="bold", fontsize="medium")
        axes.set_xlabel(plane.note, loc="left")
        for number in np.unique(colours).tolist():
            colour, points = PALETTE[number] if number >= 0 else GREY, plane.points[colours == number]
            density = estimate_density(points) if number >= 0 else None
            if density:
                ticks, values, levels = density
                contours = axes.contour(ticks, ticks, values, levels)
                # Without an array, so that no colour map replaces these colours.
                contours.set(
                    array=None, facecolor=(colour, 0.07), edgecolor=colour, linewidth=1.2, gid=f"contours{number}"
                )
            # Lines of no length with round ends are dots: a fraction of the bytes of a marker each.
            dots = Path(np.repeat(points, 2, axis=0), np.tile([Path.MOVETO, Path.LINETO], len(points)))
            dots.should_simplify = False
            axes.add_patch(
                PathPatch(
                    dots, fill=False, edgecolor=colour, alpha=0.6, linewidth=3.4, capstyle="round", gid=f"dots{number}"
                )
            )
        return to_svg(figure, f"plane-{plane.title}", f"Chunk vectors {plane.title}", described)


def _two_axes(figure: Figure, x_label: str, left_label: str, right_label: str) -> tuple[Axes, Axes]:
    """Axes that share x, which has integer ticks."""
    left = figure.add_subplot(xlabel=x_label, ylabel=left_label)
    left.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    left.grid(axis="y")
    right = left.twinx()
    right.set_ylabel(right_label)
    return left, right


def _plot(axes: Axes, gid: str, values: dict[int, float], tip: str, **style: Any) -> dict[str, list[str]]:
    """Draw a line with markers; the tooltips of its markers by gid."""
    axes.plot(list(values), list(values.values()), gid=gid, **style)
    return {gid: [tip.format(*item) for item in values.items()]}


def _finish(figure: Figure, left: Axes, right: Axes, x: int, label: str) -> None:
    """Mark the choice, add the legend, and give axes at least the range .01: noise is no trend, and ticks are short."""
    for axes in (left, right):
        low, high = axes.get_ylim()
        if high - low < 0.01:
            axes.set_ylim((low + high) / 2 - 0.005, (low + high) / 2 + 0.005)
    left.axvline(x, color=GREEN, alpha=0.2, linewidth=14, solid_capstyle="butt")
    left.annotate(
        label, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points", ha="center",
        weight="bold",
    )  # fmt: skip
    figure.legend(loc="outside upper left", ncols=2)
