"""What the report of a run draws, read from the store and from its artifacts; a page goes without what is not there."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from heal_tasks.core.errors import HealError
from heal_tasks.core.ids import bucket
from heal_tasks.core.models import CARD
from heal_tasks.report.curves import QualityPlot, plot_quality, plot_training
from heal_tasks.report.geometry import LinePlot
from heal_tasks.report.selection import SelectionRow, plot_selection, selection_rows
from heal_tasks.report.stored_tree import StoredTree, read_root_records
from heal_tasks.report.summary import Summary
from heal_tasks.steps.engine.runner import Context
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.vectors import VectorRepository

if TYPE_CHECKING:
    from heal_tasks.report.pca import ProjectionPlot

T = TypeVar("T")

SAMPLE, FEWEST = 1000, 30
"""Most chunks that are projected, and fewest that are worth a picture."""

TERMS = 3


@dataclass(frozen=True)
class Selection:
    """How the root of a run's topic tree got its number of topics."""

    plot: LinePlot
    rows: list[SelectionRow]


@dataclass(frozen=True)
class Pictures:
    """Geometry of all pictures; None for what the run has not.

    Args:
        quality: nDCG@10 of every system.
        training: the curve.
        projection: chunk vectors of the base model, and as they are served.
        selection: of the topic tree's root.
    """

    quality: QualityPlot | None
    training: LinePlot | None
    projection: "ProjectionPlot | None"
    selection: Selection | None


def draw(context: Context, summary: Summary) -> Pictures:
    """Lay out what a run's page shows.

    Args:
        context: of the step.
        summary: of the run.
    """

    def unless_missing(what: str, layout: Callable[[Context, Summary], T | None]) -> T | None:
        try:
            return layout(context, summary)
        except HealError as error:
            # A page without a plot is better than a run without a page.
            context.log.warning("the page goes without %s: %s", what, error)
            return None

    evaluated = summary.evaluation_table()
    return Pictures(
        plot_quality(evaluated) if evaluated else None,
        unless_missing("the training's curve", _training),
        unless_missing("the projection", _projection),
        unless_missing("the selection of topics", _selection),
    )


def _selection(context: Context, summary: Summary) -> Selection | None:
    """Of the tree that the page shows; None where there is none, or it had no more than one k to look at."""
    if summary.tree is None:
        return None
    records = read_root_records(context.artifacts, summary.tree)
    if len(records) < 2:
        return None
    k, threshold = summary.tree.root.k, context.settings.topic_silhouette
    return Selection(plot_selection(records, k, threshold), selection_rows(records, k, threshold))


def _training(context: Context, summary: Summary) -> LinePlot | None:
    """Of the model that the run trained, from its card."""
    uris = [row.result["refs"].get("model_uri") for row in summary.steps if row.step == "train" and row.result]
    if not uris or not uris[0]:
        return None
    file = context.artifacts.local(str(uris[0])) / CARD
    if not file.is_file():
        return None
    card = json.loads(file.read_text(encoding="utf-8"))
    return plot_training(card["history"], card["metrics"]["base_ndcg"], card["metrics"]["best_step"])


def _projection(context: Context, summary: Summary) -> "ProjectionPlot | None":
    """Of a sample of the chunks that the active generation serves, by the topics that the page shows."""
    tree, active = summary.tree, summary.active
    bases = [
        item for item in GenerationRepository(context.conn).list()
        if item.kind == "baseline" and item.model_uri == context.settings.model
    ]  # fmt: skip
    if tree is None or active is None or not bases:
        return None
    chunks, vectors = Corpus(context.conn).chunks(tree.run.topic_run_id), VectorRepository(context.conn)
    drawn = sorted(chunks.chunk_ids.tolist(), key=lambda key: bucket("projection", key, 1 << 30))[:SAMPLE]
    ids, before = vectors.load_base(bases[-1], np.array(drawn, dtype=np.int64))
    served = vectors.load_served(active, ids)
    _, here, there = np.intersect1d(ids, served.chunk_ids, assume_unique=True, return_indices=True)
    before, after = before[here], served.vectors[there]
    if len(here) < FEWEST or (before.shape == after.shape and np.allclose(before, after, atol=1e-6)):
        return None  # the base model as it is: there is no after
    from heal_tasks.report.pca import plot_projection  # SciPy's statistics take a second that most runs can save

    topics = chunks.paths[chunks.rows(ids[here]), 0]
    return plot_projection(before, after, topics, _names(tree))


def _names(tree: StoredTree) -> list[tuple[int, str]]:
    """Topics of the first level with their first words, the largest first."""
    rows = sorted(tree.children[tree.root.topic_id], key=lambda row: -row.size)
    return [(row.topic_id, ", ".join(row.terms[:TERMS])) for row in rows]
