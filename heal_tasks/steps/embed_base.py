"""Step embed_base: the base model's space filled; mining, sifting and the comparison use it."""

from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.filling import fill_spaces
from heal_tasks.steps.vectors.spaces import base_space


def embed_base(context: Context) -> Outcome:
    """Compute the vectors that the base model's space lacks."""
    return fill_spaces(context, [base_space(context)])


EMBED_BASE = Step("embed_base", embed_base, None)
