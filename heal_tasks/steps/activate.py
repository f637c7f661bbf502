"""Step activate: a ready generation promoted, or the previous one restored, by hand."""

from heal_tasks.core.errors import StepError
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.generations.generations import GenerationRepository


def activate(context: Context) -> Outcome:
    """Promote the generation of ref ``generation_id``, or roll back to the previous one where that is 0.

    Ref ``went_live`` is 0 if it was live already.
    """
    generations, kept = GenerationRepository(context.conn), context.kept()
    if kept is None:
        wanted, active = context.manifest.number("generation_id"), generations.active()
        if not wanted:
            previous = generations.previous()
            if previous is None:
                raise StepError("there is no previous generation to roll back to; heal.generation_status lists them")
            wanted = previous.generation_id
        kept = {"wanted": wanted, "before": active.generation_id if active else 0}
        # A second attempt at a rollback would otherwise undo the first one's.
        context.keep(kept)
    wanted = int(kept["wanted"])
    generations.activate(wanted)
    went_live = wanted if kept["before"] != wanted else 0
    return Outcome(refs={"generation_id": wanted, "went_live": went_live}, note=f"generation {wanted} is active")


ACTIVATE = Step("activate", activate, None, beside_runs=True)
