"""One file per pipeline step: where algorithms meet storage.

The catalogue names every step without importing it: a step that only moves rows must not pay five
seconds and 300 MB for torch.
"""

from dataclasses import dataclass
from importlib import import_module

from heal_tasks.core.errors import InputError
from heal_tasks.steps.engine.runner import Step


@dataclass(frozen=True)
class Entry:
    """Where a step is, and what it is for in one line."""

    module: str
    about: str
    sharded: bool = False


CATALOGUE: dict[str, Entry] = {
    "ingest": Entry("ingest", "Pull new, changed and deleted documents from every source."),
    "route": Entry("route", "Choose nothing, nudge or realign, and say why."),
    "count_words": Entry("factorise", "Count the words of a large corpus, for the tasks that factorise its root."),
    "factorise": Entry("factorise", "Factorise this shard's perturbations and ks of the root.", sharded=True),
    "label": Entry("label", "Build the HNMFk topic tree and label every document."),
    "ask": Entry("ask", "Write questions with answers and evidence for chunks that have none.", sharded=True),
    "map_entities": Entry(
        "map_entities", "Write entity maps of chunks that have none, where HEAL_MAP_RATE wants any.", sharded=True
    ),
    "embed_base": Entry("embed", "Vectors of the base model, for mining and comparison.", sharded=True),
    "sift": Entry("sift", "Drop training and validation questions by which the base model cannot find their chunk."),
    "mine": Entry("mine", "Plan near and far negatives and write the training set."),
    "train": Entry("train", "Fine-tune the base model with the HEAL and own-document losses."),
    "embed": Entry("embed", "Vectors of the candidates: live model and trained model.", sharded=True),
    "nudge": Entry("nudge", "Move the candidates' vectors by the questions."),
    "evaluate": Entry("evaluate", "Candidates against live generation and base model; the gate chooses."),
    "answer": Entry(
        "answer",
        "Have an LLM answer held-out questions from what each system finds, where HEAL_ANSWER_QUESTIONS wants it.",
    ),
    "index": Entry("promote", "Index the winner and measure the index's recall."),
    "promote": Entry("promote", "Switch to the winner, or keep the live generation."),
    "assign_labels": Entry("label", "Label new documents by projection on the live topic tree."),
    "embed_new": Entry("embed", "Vectors of new chunks and questions with the live model.", sharded=True),
    "nudge_live": Entry("nudge_live", "Publish new documents and move the live rows they touch."),
    "report": Entry("report", "Close the run and write its page."),
    "maintain": Entry("maintain", "Drop old generations and files, vacuum, measure the recall of what is served."),
    "activate": Entry("promote", "Promote a ready generation, or roll back to the previous one."),
}
"""Every step by name, in the order of the road."""


def load_step(name: str) -> Step:
    """Import a step.

    Args:
        name: as in the catalogue.

    Returns:
        The step.

    Raises:
        InputError: there is no step of that name.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        raise InputError(f"there is no step {name!r}; the steps are {', '.join(CATALOGUE)}")
    step = getattr(import_module(f"heal_tasks.steps.{entry.module}"), name.upper())
    assert isinstance(step, Step)
    return step
