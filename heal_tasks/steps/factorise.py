"""Steps count_words and factorise: the root of a large corpus is shared out over mapped tasks; ``label`` collects.

What ``label`` then finds is what it would have computed: units draw their random numbers from their names.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, load_npz, save_npz

from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import fingerprint
from heal_tasks.questions.splits import is_unseen
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.topics.hnmfk import HNMFkConfig, count_corpus, root_workbench
from heal_tasks.topics.operand import one_thread
from heal_tasks.topics.units import Arrays, Unit


def topic_config(context: Context) -> HNMFkConfig:
    """The HNMFk settings."""
    settings = context.settings
    return HNMFkConfig(
        max_depth=settings.topic_depth,
        max_k=settings.topic_max_k,
        min_documents=settings.topic_min_documents,
        min_topic_documents=settings.topic_min_topic_documents,
        perturbations=settings.topic_perturbations,
        perturb=settings.topic_perturb,
        noise=settings.topic_noise,
        full_search=settings.topic_full_search,
        silhouette=settings.topic_silhouette,
        max_terms=settings.topic_max_terms,
        seed=settings.seed,
    )


def topic_inputs(context: Context) -> list[object]:
    """What the topics depend on."""
    return [Corpus(context.conn).hash(), repr(topic_config(context))]


def topic_threads(context: Context) -> int:
    """Threads that factorise."""
    return context.settings.topic_workers or (os.cpu_count() or 1)


def is_held_out(ids: Sequence[int]) -> NDArray[np.bool_]:
    """Which documents take no part in making topics: those that judge, unless there are no others."""
    unseen = np.array([is_unseen(document_id) for document_id in ids], bool)
    return unseen & ~unseen.all()


@dataclass(frozen=True, eq=False)
class SharedRoot:
    """Counts of a large corpus, and the units of its root as artifacts.

    Args:
        context: of the step.
        key: of the artifacts.
        counts: float32 csr, shape (documents that make topics, words).
        vocabulary: the words.
    """

    context: Context
    key: str
    counts: csr_array
    vocabulary: tuple[str, ...]

    @classmethod
    def load(cls, context: Context) -> "SharedRoot | None":
        """What ``count_words`` has left, or None where the corpus is not shared out.

        Raises:
            StepError: the documents or the settings have changed since.
        """
        uri = str(context.manifest.refs.get("counts_uri", ""))
        if not uri:
            return None
        if uri != context.artifacts.uri(_counts_key(context)):
            raise StepError(
                f"documents or topic settings have changed since count_words left {uri}; run this run's tasks again "
                "from count_words on"
            )
        folder = context.artifacts.local(uri)
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        return cls(context, _key(context), csr_array(load_npz(folder / "counts.npz")), tuple(vocabulary))

    def run(self, work: Callable[[Unit], Arrays], units: Iterable[Unit]) -> list[Arrays]:
        """Results of units: what a task has stored, or worked on here where none has."""
        return [self.stored(unit) or work(unit) for unit in units]

    def stored(self, unit: Unit) -> Arrays | None:
        """A unit's result, if a task has stored it."""
        uri = self.context.artifacts.uri(f"{self.key}/{unit}")
        if not self.context.artifacts.exists(uri):
            return None
        with np.load(self.context.artifacts.local(uri) / "result.npz", allow_pickle=False) as result:
            return dict(result)

    def store(self, unit: Unit, result: Arrays) -> None:
        """Keep a unit's result."""
        with self.context.artifacts.writing(f"{self.key}/{unit}") as folder:
            np.savez(folder / "result.npz", allow_pickle=False, **result)

    def delete(self) -> None:
        """Remove counts and units, which nobody needs once there is a tree."""
        self.context.artifacts.delete(self.context.artifacts.uri(self.key))


def count_words(context: Context) -> Outcome:
    """Count the words of a large corpus, for the tasks that factorise its root.

    Args:
        context: of the step.

    Returns:
        Ref ``counts_uri``, empty where the corpus is small enough for ``label`` alone; count of documents.
    """
    settings = context.settings
    ids, texts = Corpus(context.conn).texts()
    if settings.topic_shards == 1 or len(ids) < settings.topic_shard_documents:
        why = f"{len(ids)} documents, below HEAL_TOPIC_SHARD_DOCUMENTS={settings.topic_shard_documents}"
        if settings.topic_shards == 1:
            why = "HEAL_TOPIC_SHARDS=1"
        return Outcome(refs={"counts_uri": ""}, note=f"not shared out: {why}; label factorises the root")
    rows = np.flatnonzero(~is_held_out(ids))
    counts, vocabulary = count_corpus([texts[row] for row in rows], topic_config(context))
    key = _counts_key(context)
    with context.artifacts.writing(key) as folder:
        save_npz(folder / "counts.npz", counts, compressed=False)
        (folder / "vocabulary.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    return Outcome(
        refs={"counts_uri": context.artifacts.uri(key)},
        counts={"documents": counts.shape[0], "words": counts.shape[1], "entries": int(counts.nnz)},
        note=f"{counts.shape[0]} documents, {counts.shape[1]} words; {settings.topic_shards} tasks share the root",
    )


def factorise(context: Context) -> Outcome:
    """This shard's perturbations and ks of the root; what an earlier try has stored is not done again.

    Args:
        context: of the step.

    Returns:
        Count of units done here.
    """
    shared = SharedRoot.load(context)
    if shared is None:
        return Outcome(note="not shared out; label factorises the root")
    device = pick_device(context.settings.device)
    bench, units = root_workbench(shared.counts, topic_config(context), device)
    own = units[context.shard :: context.shards]
    missing = [unit for unit in own if shared.stored(unit) is None]
    with one_thread():
        for unit in context.track(missing):
            shared.store(unit, bench.run(unit))
    return Outcome(counts={"units": len(missing)}, note=f"{len(own)} of {len(units)} units of the root")


def _key(context: Context) -> str:
    return f"topics/root-{fingerprint(topic_inputs(context))}"


def _counts_key(context: Context) -> str:
    return f"{_key(context)}/counts"


COUNT_WORDS = Step("count_words", count_words, None)
FACTORISE = Step("factorise", factorise, None)
