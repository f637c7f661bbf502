"""Step embed: the spaces of the candidates filled, those of the base model, the live model and the trained model."""

from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.filling import fill_spaces
from heal_tasks.steps.vectors.spaces import candidate_spaces


def embed(context: Context) -> Outcome:
    """Compute the vectors that the candidates' spaces lack; of a space that is kept from night to night only new ones."""
    return fill_spaces(context, [item.space for item in candidate_spaces(context)])


EMBED = Step("embed", embed, None)
