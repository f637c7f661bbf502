"""Steps label and assign_labels: a topic path for every document, built anew or by projection."""

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import fingerprint
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.factorise import SharedRoot, is_held_out, topic_config, topic_inputs, topic_threads
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.topics import Labels, TopicRepository, TopicRow
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.topics.hnmfk import count_corpus, grow_tree
from heal_tasks.topics.matching import Matching, match_topics
from heal_tasks.topics.projection import Projection
from heal_tasks.topics.tree import TopicTree


def _inputs(context: Context) -> object:
    return [*topic_inputs(context), context.settings.topic_max_churn]


def label(context: Context) -> Outcome:
    """Build the topic tree, match it to the previous run's topics, label every document.

    Documents of the unseen splits are projected on the finished tree: labels that train must not have
    been made with the documents that judge.

    Args:
        context: of the step.

    Returns:
        Refs ``topic_run_id`` and ``topics_uri``; counts of documents, topics, leaves, depth.

    Raises:
        StepError: there is no document, or topics churned more than the settings allow.
    """
    ids, texts = Corpus(context.conn).texts()
    if not ids:
        raise StepError("there is no document to label; look at HEAL_SOURCES and heal.quarantine, then ingest again")
    unseen = is_held_out(ids)
    seen_rows, unseen_rows = np.flatnonzero(~unseen), np.flatnonzero(unseen)
    config, shared = topic_config(context), SharedRoot.load(context)
    counts, vocabulary = (
        (shared.counts, shared.vocabulary) if shared else count_corpus([texts[row] for row in seen_rows], config)
    )
    tree = grow_tree(
        counts,
        vocabulary,
        config,
        context.progress,
        workers=topic_threads(context),
        device=pick_device(context.settings.device),
        run_root_with=shared.run if shared else None,
    )
    topics = TopicRepository(context.conn)
    tree, matching = _with_stable_ids(context, topics, tree)
    projection = tree.project([texts[row] for row in unseen_rows])

    key = f"topics/{fingerprint([context.run_id, _inputs(context)])}"
    with context.artifacts.writing(key) as folder:
        tree.save(folder)
    all_ids = np.array(ids, dtype=np.int64)
    depth = max(node.level for node in tree.nodes)
    with context.conn.transaction():
        topic_run_id = topics.insert_run(
            fingerprint=fingerprint([context.run_id, _inputs(context)]),
            uri=context.artifacts.uri(key),
            churn=matching.churn if matching else None,
            mean_residual=float(tree.residual.mean()),
            topics=[
                TopicRow(
                    node.topic_id, node.parent if node.level else None, node.level, node.first_leaf, node.last_leaf,
                    list(node.terms), node.k, node.silhouette, node.size, node.stop_reason,
                )
                for node in tree.nodes
            ],
            labels=_labels(all_ids[seen_rows], tree),
        )  # fmt: skip
        topics.add_labels(topic_run_id, _labels(all_ids[unseen_rows], projection))
    if shared:
        shared.delete()
    leaves = tree.nodes[0].last_leaf + 1
    churn = f", churn to the previous run {matching.churn:.0%}" if matching else ""
    return Outcome(
        refs={"topic_run_id": topic_run_id, "topics_uri": context.artifacts.uri(key)},
        counts={"documents": len(ids), "topics": len(tree.nodes) - 1, "leaves": leaves, "depth": depth},
        note=f"{len(tree.nodes) - 1} topics, {leaves} leaves, depth {depth}{churn}",
    )


def _with_stable_ids(context: Context, topics: TopicRepository, tree: TopicTree) -> tuple[TopicTree, Matching | None]:
    latest = topics.latest()
    if latest is None or not context.artifacts.exists(latest.uri):
        return tree, None
    previous = TopicTree.load(context.artifacts.local(latest.uri))
    matching = match_topics(previous, tree, next_id=topics.max_topic_id() + 1)
    limit = context.settings.topic_max_churn
    if matching.churn > limit:
        raise StepError(
            f"{matching.churn:.0%} of the documents are in topics without a match in the previous run, more than "
            f"HEAL_TOPIC_MAX_CHURN={limit}; training on such labels would undo the last run's. Look at heal.topic, and "
            "raise the limit for one run if the corpus really changed that much"
        )
    return tree.relabel(matching.mapping), matching


def _labels(ids: NDArray[np.int64], made: TopicTree | Projection) -> Labels:
    paths = [[int(topic) for topic in path if topic >= 0] for path in made.paths]
    return Labels(ids, made.leaves, paths, made.membership, made.residual)


def assign_labels(context: Context) -> Outcome:
    """Label documents that the active generation's topic tree has not seen, by projection.

    Args:
        context: of the step.

    Returns:
        Ref ``topic_run_id``; count of newly labelled documents.

    Raises:
        StepError: no generation is active.
    """
    topics = TopicRepository(context.conn)
    active = GenerationRepository(context.conn).active()
    if active is None or active.topic_run_id is None:
        raise StepError("no generation is active, so there is no topic tree to project on; take the realign route")
    run = topics.get(active.topic_run_id)
    ids, texts = Corpus(context.conn).texts(unlabelled_in=run.topic_run_id)
    if ids:
        projection = TopicTree.load(context.artifacts.local(run.uri)).project(texts)
        topics.add_labels(run.topic_run_id, _labels(np.array(ids, dtype=np.int64), projection))
    return Outcome(
        refs={"topic_run_id": run.topic_run_id},
        counts={"documents": len(ids)},
        note=f"{len(ids)} documents labelled by projection on topic run {run.topic_run_id}",
    )


LABEL = Step("label", label, _inputs)
ASSIGN_LABELS = Step("assign_labels", assign_labels, None)
