"""Step first_light: where nothing is live, the base model's vectors and lexicon are published at once.

People can search minutes after the first documents came, while the same run goes on to train. This generation has no
topics; the run's own publication replaces it, or adds them. Questions, which step ask may be writing meanwhile, take
no part.
"""

from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.filling import fill_spaces
from heal_tasks.steps.vectors.publishing import publish_generation
from heal_tasks.steps.vectors.spaces import base_space
from heal_tasks.steps.vectors.systems import make_generation
from heal_tasks.store.generations.generations import GenerationRepository


def first_light(context: Context) -> Outcome:
    """Embed all chunks with the base model and publish them with a lexicon, unless a generation is live.

    Ref ``went_live`` is the published generation.
    """
    generations = GenerationRepository(context.conn)
    if active := generations.active():
        own = active.run_id == context.run_id  # an earlier attempt was killed after the switch
        refs: dict[str, int | str] = {"went_live": active.generation_id} if own else {}
        return Outcome(refs=refs, note=f"generation {active.generation_id} is live already")
    generations.discard_unfinished(context.run_id)
    space = base_space(context)
    filled = fill_spaces(context, [space], chunks_only=True)
    if active := generations.active():  # published by another run while this one embedded
        return Outcome(counts=filled.counts, note=f"generation {active.generation_id} has become live meanwhile")
    made = make_generation(context, space, None, None, LexiconRecord())
    rows, indexed, _ = publish_generation(context, made, without_questions=True)
    note = (
        indexed.fault or f"generation {made.generation_id} is live: ask it with SELECT * FROM heal.find('a question')"
    )
    undone = "" if rows else "Nothing can be found yet: there was no chunk to publish"
    return Outcome(
        refs={"went_live": 0 if indexed.fault else made.generation_id},
        counts={**filled.counts, "rows": rows},
        note=note,
        undone=undone,
    )


FIRST_LIGHT = Step("first_light", first_light, None)
