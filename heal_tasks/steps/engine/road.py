"""The road as one table: every step, the routes, and the order in which they run, here in one process.

Steps are named without being imported: a step that only moves rows must not pay five seconds and 300 MB for torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from heal_tasks.core.errors import InputError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.runner import Step
from heal_tasks.store.runs.run_lock import whole_run


@dataclass(frozen=True)
class Entry:
    """One step of the road."""

    about: str  # its purpose in one line
    shards: str = ""  # the setting that says over how many mapped tasks, or which, it is spread; empty for one task
    gpu: bool = False  # runs on the queue ``gpu``
    only_if: str = ""  # the setting that switches it on; empty for a step that always runs


STEPS: dict[str, Entry] = {
    "ingest": Entry("Pull new, changed and deleted documents from every source."),
    "route": Entry("Choose nothing, nudge or realign, and record why."),
    "first_light": Entry("Where nothing is live: publish the base model's vectors with a lexicon at once.", gpu=True),
    "label": Entry("Build the HNMFk topic tree and label every document."),
    "ask": Entry("Generate questions with answers and evidence for chunks that have none.", shards="ask_shards"),
    "map_entities": Entry("Write entity maps of chunks that have none.", shards="ask_shards", only_if="map_rate"),
    "embed_base": Entry("Fill the base model's space.", shards="embed_shards", gpu=True),
    "sift": Entry(
        "Assign human questions to chunks; drop questions for which the base model does not retrieve the source chunk.",
        gpu=True,
    ),
    "mine": Entry("Choose near and far negatives and write the training set."),
    "train": Entry("Fine-tune the base model, once for each of HEAL_OBJECTIVES.", shards="objectives", gpu=True),
    "embed": Entry("Fill the candidates' spaces: base, live and trained models.", shards="embed_shards", gpu=True),
    "choose": Entry("Move every candidate's vectors in memory, score them, and let the gate choose."),
    "answer": Entry(
        "Have an LLM answer held-out questions from the passages that each system finds.", only_if="answer_questions"
    ),
    "publish": Entry("Write, index and measure the winner, then switch to it."),
    "assign_labels": Entry("Label new documents by projection on the live topic tree."),
    "embed_new": Entry("Fill the live model's space with new chunks and questions.", shards="embed_shards", gpu=True),
    "nudge_live": Entry("Publish new documents and move the live rows that they touch."),
    "report": Entry("Close the run and write its page."),
    "maintain": Entry("Drop old generations and files, vacuum, measure the recall of what is served."),
    "activate": Entry("Switch to a ready generation, or roll back to the previous one."),
}
"""Every step by name; its module in ``heal_tasks.steps`` has the same name."""

ROUTES: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "nudge": ("assign_labels", "ask", "embed_new", "nudge_live"),
    "realign": (
        "first_light", "label", "ask", "map_entities", "embed_base", "sift", "mine", "train", "embed", "choose",
        "answer", "publish",
    ),
}  # fmt: skip
"""The steps of each route, between ``route`` and ``report``."""


def load_step(name: str) -> Step:
    """Import a step; InputError if there is none of that name."""
    if name not in STEPS:
        raise InputError(f"there is no step {name!r}; the steps are {', '.join(STEPS)}")
    step = getattr(import_module(f"heal_tasks.steps.{name}"), name.upper())
    assert isinstance(step, Step)
    return step


def steps_of(settings: Settings, route: str) -> tuple[str, ...]:
    """The steps of a route that the settings switch on."""
    return tuple(name for name in ROUTES[route] if not STEPS[name].only_if or getattr(settings, STEPS[name].only_if))


def run_pipeline(settings: Settings, run_id: str, tell: Callable[[Manifest], None] = lambda manifest: None) -> None:
    """Run or continue a run as the DAG does: ingest, route, the chosen route, report; ``tell`` gets each manifest.

    Raises:
        StoreError: another run or a step is under way.
    """
    manifest = Manifest(run_id=run_id)
    with whole_run(settings.require_database_url(), run_id) as check:

        def run(name: str) -> Manifest:
            check()
            made = load_step(name).run_to_end(settings, manifest, in_run=True)
            tell(made)
            return made

        for name in ("ingest", "route"):
            manifest = run(name)
        for name in (*steps_of(settings, manifest.text("route")), "report"):
            manifest = run(name)
