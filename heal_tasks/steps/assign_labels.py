"""Step assign_labels: label new documents by projection on the topic tree of the live generation."""

import numpy as np

from heal_tasks.core.errors import StepError
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.spaces import live_generation
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.topics import Labels, TopicRepository
from heal_tasks.topics.tree import TopicTree


def assign_labels(context: Context) -> Outcome:
    """Label the documents that have no label in the live generation's topic tree, ref ``topic_run_id``."""
    topics, live = TopicRepository(context.conn), live_generation(context)
    if live.topic_run_id is None:  # the route was chosen for another, and then somebody switched
        raise StepError(
            f"generation {live.generation_id}, which is live now, has no topics, so it cannot be nudged; the next run "
            "realigns it"
        )
    run = topics.get(live.topic_run_id)
    ids, texts = Corpus(context.conn).texts(unlabelled_in=run.topic_run_id)
    if ids:
        if not context.artifacts.exists(run.uri):
            raise StepError(
                f"the files of topic run {run.topic_run_id}, {run.uri}, are gone, so new documents cannot be labelled; "
                "put them back from a backup, or run the realign route (HEAL_FORCE_ROUTE=realign for one run), which "
                "makes new topics"
            )
        made = TopicTree.load(context.artifacts.local(run.uri)).project(texts)
        labels = Labels(np.array(ids, dtype=np.int64), made.leaves, made.path_lists(), made.membership, made.residual)
        topics.add_labels(run.topic_run_id, labels)
    return Outcome(
        refs={"topic_run_id": run.topic_run_id},
        counts={"documents": len(ids)},
        note=f"{len(ids)} documents labelled by projection on topic run {run.topic_run_id}",
    )


ASSIGN_LABELS = Step("assign_labels", assign_labels, None)
