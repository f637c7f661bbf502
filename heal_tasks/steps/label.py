"""Step label: build the topic tree of the corpus and label every document.

Documents of the unseen splits are projected on the finished tree: labels for training must not be made with the
documents that the gate judges by. With HEAL_PUBLIC_WORDS so are documents that have a list of readers, and of a large
corpus all but ``MOST_DOCUMENTS``, so that memory does not grow with the corpus.
"""

import os

import numpy as np

from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import fingerprint
from heal_tasks.core.settings import Settings
from heal_tasks.questions.splits import is_unseen
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.topics import Labels, TopicRepository, TopicRow
from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.hnmfk import build_tree
from heal_tasks.topics.matching import Matching, match_topics
from heal_tasks.topics.tfidf import still_words
from heal_tasks.topics.tree import Projection, TopicTree

MOST_DOCUMENTS = 50_000
"""Documents that a tree is built of, at most: of 800 words each, so many take 3.0 GiB, and 80,000 more than 5
(docs/scale.md)."""
BATCH = 10_000
"""Documents that are projected at a time."""


def _config(settings: Settings) -> HNMFkConfig:
    return HNMFkConfig(
        max_depth=settings.topic_depth,
        max_k=settings.topic_max_k,
        min_documents=settings.topic_min_documents,
        perturbations=settings.topic_perturbations,
        seed=settings.seed,
    )


def _inputs(context: Context) -> object:
    corpus, settings = Corpus(context.conn), context.settings
    restricted = corpus.restricted() if settings.public_words else None
    return [corpus.hash(), repr(_config(settings)), settings.topic_max_churn, restricted]


def label(context: Context) -> Outcome:
    """Build the topic tree, match it to the previous run's topics, label every document."""
    settings, topics = context.settings, TopicRepository(context.conn)
    corpus = Corpus(context.conn)
    ids = corpus.document_ids()
    if not len(ids):
        raise StepError("there is no document to label; look at HEAL_SOURCES and heal.quarantine, then ingest again")
    restricted = np.isin(ids, corpus.restricted() if settings.public_words else [])
    if restricted.all():
        raise StepError(
            f"HEAL_PUBLIC_WORDS=true, and each of the {len(ids)} documents has a list of readers; topics are then made "
            "of documents without one. Add such documents, or set HEAL_PUBLIC_WORDS=false"
        )
    projected = restricted | np.array([is_unseen(document_id) for document_id in ids.tolist()])
    if projected.all():
        projected = restricted
    # Ids are hashes, so the smallest are a sample, and new documents hardly change it.
    built_of, texts = corpus.texts(among=ids[~projected][:MOST_DOCUMENTS])
    workers, device = os.cpu_count() or 1, pick_device(settings.device)
    tree = build_tree(texts, _config(settings), context.progress, workers=workers, device=device)
    tree, matching = _with_stable_ids(context, topics, tree)

    run_key = fingerprint([context.run_id, _inputs(context)])
    with context.artifacts.writing(f"topics/{run_key}") as folder:
        tree.save(folder)
    uri = context.artifacts.uri(f"topics/{run_key}")
    rows = [
        TopicRow(
            node.topic_id, node.parent if node.level else None, node.level, node.first_leaf, node.last_leaf,
            list(node.terms), node.k, node.silhouette, node.size, node.stop_reason,
        )
        for node in tree.nodes
    ]  # fmt: skip
    with context.conn.transaction():
        topic_run_id = topics.insert_run(
            fingerprint=run_key,
            uri=uri,
            churn=matching.churn if matching else None,
            mean_residual=float(tree.residual.mean()),
            topics=rows,
            labels=_labels(built_of, tree),
        )
        rest = np.setdiff1d(ids, built_of)
        for first in context.track(range(0, len(rest), BATCH)):
            others, texts = corpus.texts(among=rest[first : first + BATCH])
            topics.add_labels(topic_run_id, _labels(others, tree.project(texts)))
    topic_count = len(tree.nodes) - 1
    churn = f", churn to the previous run {matching.churn:.0%}" if matching else ""
    return Outcome(
        refs={"topic_run_id": topic_run_id, "topics_uri": uri},
        counts={"documents": len(ids), "topics": topic_count, "leaves": tree.leaf_count, "depth": tree.depth},
        note=f"{topic_count} topics, {tree.leaf_count} leaves, depth {tree.depth}{churn}",
    )


def _with_stable_ids(context: Context, topics: TopicRepository, tree: TopicTree) -> tuple[TopicTree, Matching | None]:
    latest = topics.latest()
    if latest is None or not context.artifacts.exists(latest.uri):
        return tree, None
    previous = TopicTree.load(context.artifacts.local(latest.uri))
    matching = match_topics(previous, tree, next_id=topics.max_topic_id() + 1)
    limit = context.settings.topic_max_churn
    # A tree that was not split has no topics to match, nor have topics by other words than today's, of a text without
    # blanks for example.
    if matching.churn > limit and len(previous.nodes) > 1 and still_words(previous.vocabulary):
        raise StepError(
            f"{matching.churn:.0%} of the documents are in topics without a match in the previous run, more than "
            f"HEAL_TOPIC_MAX_CHURN={limit}; training on such labels would undo the last run's. Look at heal.topic, and "
            "raise the limit for one run if the corpus really changed that much"
        )
    return tree.relabel(matching.mapping), matching


def _labels(ids: list[int], places: Projection) -> Labels:
    return Labels(np.array(ids, dtype=np.int64), places.leaves, places.path_lists(), places.membership, places.residual)


LABEL = Step("label", label, _inputs)
