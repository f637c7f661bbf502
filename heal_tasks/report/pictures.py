"""Collect and draw the pictures of a run's page; a picture whose data is missing is left out."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from markupsafe import Markup

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.core.errors import HealError
from heal_tasks.core.ids import bucket
from heal_tasks.core.metrics import metric_name
from heal_tasks.core.models import CARD
from heal_tasks.report.plots import draw_plane, draw_quality, draw_selection, draw_training
from heal_tasks.report.stored_tree import COLUMNS, read_root_records, selection_rows
from heal_tasks.report.summary import Summary
from heal_tasks.report.svg import PALETTE
from heal_tasks.report.tsne import project
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.topics.config import HNMFkConfig

T = TypeVar("T")

MAX_CHUNKS, MIN_CHUNKS = 1000, 30
"""Chunks in the projection: a sample of at most so many, and no picture for fewer."""

_log = logging.getLogger(__name__)


class Projection(NamedTuple):
    """Chunk vectors before and after: pictures (one if no vector changed), topics with a colour, number of chunks."""

    planes: list[Markup]
    topics: list[str]
    chunks: int


class Selection(NamedTuple):
    """The choice of the number of topics at the root of a tree, as a picture and a table."""

    picture: Markup
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Pictures(NamedTuple):
    """All pictures of a run; None for those that the run does not have."""

    quality: Markup | None = None
    training: Sequence[tuple[str, Markup]] = ()  # what each model was trained for, and its curve
    projection: Projection | None = None
    selection: Selection | None = None


def draw(conn: Connection, artifacts: ArtifactStore, summary: Summary, model: str) -> Pictures:
    """Draw the pictures of a run; ``model`` is the URI of the base model."""

    def unless_missing(name: str, drawn: Callable[[], T | None]) -> T | None:
        try:
            return drawn()
        except HealError as error:
            # A page without a picture is better than a run without a page.
            _log.warning("the page goes without %s: %s", name, error)
            return None

    rows = summary.evaluation_table()
    return Pictures(
        draw_quality(rows) if rows else None,
        unless_missing("the training curves", lambda: list(_training(artifacts, summary))) or (),
        unless_missing("the projection", lambda: _projection(conn, summary, model)),
        unless_missing("the selection of topics", lambda: _selection(artifacts, summary)),
    )


def _training(artifacts: ArtifactStore, summary: Summary) -> Iterator[tuple[str, Markup]]:
    """Draw the curves of the models that the run trained, from their cards."""
    results = (row.result for row in summary.steps if row.step == "train" and row.result)
    for ref, uri in (item for result in results for item in result["refs"].items()):
        file = artifacts.local(uri) / CARD if ref.endswith("model_uri") and uri else None
        if file and file.is_file():
            card = json.loads(file.read_text(encoding="utf-8"))
            scores = card["history"], card["metrics"]["base_score"], card["metrics"]["best_step"]
            objective = ref.partition("_")[0]
            yield objective, draw_training(objective, metric_name(card["metric"]), *scores)


def _projection(conn: Connection, summary: Summary, model: str) -> Projection | None:
    """Draw a sample of the served chunks, as the base model encodes them and as they are served.

    Only in runs with a step publish: a nudge moves few rows, and t-SNE would take longer than the nudge.
    """
    spaces, tree, active = SpaceRepository(conn), summary.tree, summary.active
    base = spaces.find_by_uri(model)
    published = any(row.step == "publish" and row.finished_at for row in summary.steps)
    if tree is None or active is None or base is None or not published:
        return None
    chunks = Corpus(conn).chunks(tree.run.topic_run_id)
    sample = sorted(chunks.chunk_ids.tolist(), key=lambda key: bucket("projection", key, 1 << 30))[:MAX_CHUNKS]
    ids, before = spaces.load_chunks(base, np.array(sample, dtype=np.int64))
    served = ServedRepository(conn).load_served(active, ids)
    ids, rows_before, rows_after = np.intersect1d(ids, served.chunk_ids, assume_unique=True, return_indices=True)
    before, after = before[rows_before], served.vectors[rows_after]
    if len(ids) < MIN_CHUNKS:
        return None
    # The largest topics of the first level have a colour of their own.
    largest = sorted(tree.children[tree.root.topic_id], key=lambda row: -row.size)[: len(PALETTE)]
    colour_of = {row.topic_id: number for number, row in enumerate(largest)}
    topics = chunks.paths[chunks.rows(ids), 0]
    colours = np.array([colour_of.get(int(topic), -1) for topic in topics])
    planes = [draw_plane(plane, colours) for plane in project(before, after, topics)]
    return Projection(planes, [", ".join(row.terms[:3]) for row in largest], len(ids))


def _selection(artifacts: ArtifactStore, summary: Summary) -> Selection | None:
    """Draw the choice at the root of the tree that the page shows; None where only one k was tried."""
    if summary.tree is None:
        return None
    records, k = read_root_records(artifacts, summary.tree), summary.tree.root.k
    if len(records) < 2:
        return None
    threshold = HNMFkConfig.silhouette
    return Selection(draw_selection(records, k, threshold), COLUMNS, selection_rows(records, k, threshold))
