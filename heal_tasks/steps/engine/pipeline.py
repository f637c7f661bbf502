"""The whole road in one process, in the order that the DAG runs it: for the command line, tests and benches."""

from collections.abc import Callable

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.catalogue import load_step

_ROUTES: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "nudge": ("assign_labels", "ask", "embed_new", "nudge_live"),
    "realign": (
        "label", "ask", "map_entities", "embed_base", "sift", "mine", "train", "embed", "nudge", "evaluate", "answer",
        "index", "promote",
    ),
}  # fmt: skip


def steps_between(settings: Settings, route: str) -> tuple[str, ...]:
    """The steps of a route, those between ``route`` and ``report``."""
    unwanted = {"map_entities": not settings.map_rate, "answer": not settings.answer_questions}
    return tuple(name for name in _ROUTES[route] if not unwanted.get(name))


def run_pipeline(settings: Settings, run_id: str, tell: Callable[[Manifest], None] = lambda manifest: None) -> Manifest:
    """Ingest, route, the chosen path, report.

    Args:
        settings: all settings.
        run_id: name of the run; the same name again goes on where a killed run stopped.
        tell: called with each step's manifest.

    Returns:
        The report's manifest.
    """
    manifest = Manifest(run_id=run_id)
    for name in ("ingest", "route"):
        manifest = load_step(name).run(settings, manifest)
        tell(manifest)
    for name in (*steps_between(settings, manifest.text("route")), "report"):
        manifest = load_step(name).run_to_end(settings, manifest)
        tell(manifest)
    return manifest
