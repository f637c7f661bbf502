"""Step embed_new: the live model's space filled with new chunks and questions, before they are published."""

from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.filling import fill_spaces
from heal_tasks.steps.vectors.spaces import live_generation
from heal_tasks.store.spaces.spaces import SpaceRepository


def embed_new(context: Context) -> Outcome:
    """Compute the vectors that the live model's space lacks."""
    return fill_spaces(context, [SpaceRepository(context.conn).get(live_generation(context).space_id)])


EMBED_NEW = Step("embed_new", embed_new, None)
