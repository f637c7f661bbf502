"""Step embed_new: the live model's space filled with new chunks and questions, before they are published."""

from heal_tasks.core.errors import StepError
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.filling import fill_spaces
from heal_tasks.steps.vectors.spaces import live_space


def embed_new(context: Context) -> Outcome:
    """Compute the vectors that the live model's space lacks.

    Raises:
        StepError: nothing is live.
    """
    space = live_space(context)
    if space is None:
        raise StepError("no generation is active, so there is no model to embed with; take the realign route")
    return fill_spaces(context, [space])


EMBED_NEW = Step("embed_new", embed_new, None)
