"""Step embed: the spaces of the candidates filled, those of the base model, the live model and the trained models."""

from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.filling import fill_spaces
from heal_tasks.steps.vectors.spaces import candidate_spaces


def embed(context: Context) -> Outcome:
    """Compute the vectors that the candidates' spaces lack; in a space kept from the night before, only new ones."""
    return fill_spaces(context, list(candidate_spaces(context).values()))


EMBED = Step("embed", embed, None)
