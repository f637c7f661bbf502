"""The whole road in one process, in the order of the DAG: for the command line, tests and benches."""

from collections.abc import Callable

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.road import load_step, steps_of


def run_pipeline(settings: Settings, run_id: str, tell: Callable[[Manifest], None] = lambda manifest: None) -> Manifest:
    """Ingest, route, the chosen route, report: ``tell`` gets the manifest of each, the last one is returned.

    The same ``run_id`` again continues a killed run where it stopped.
    """
    manifest = Manifest(run_id=run_id)
    for name in ("ingest", "route"):
        manifest = load_step(name).run(settings, manifest)
        tell(manifest)
    for name in (*steps_of(settings, manifest.text("route")), "report"):
        manifest = load_step(name).run_to_end(settings, manifest)
        tell(manifest)
    return manifest
