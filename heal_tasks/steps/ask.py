"""Step ask: questions with answers and evidence for every chunk that has none yet, from an LLM or extractively."""

from collections import Counter

from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.writing.llm_batches import Batches, Sorted
from heal_tasks.steps.writing.llm_calls import refuse_if_failing
from heal_tasks.steps.writing.question_recorder import QuestionRecorder, make_inquiry, make_writer
from heal_tasks.steps.writing.spend_limit import SpendLimit, budget_of


def ask(context: Context) -> Outcome:
    """Write questions for this shard's chunks whose text was never asked about with this prompt and model.

    Results are stored every few chunks, so a killed task pays for nothing twice but what was not stored yet. Where a
    budget is used up the step ends early, and the next run asks about the rest.

    Args:
        context: of the step.

    Returns:
        Counts of asked chunks, kept and dropped questions, dropped ones by filter, failures, tokens and cost; of chunks
        that needed no call, of those in a batch that is not waited for, and of those left over by the budget.

    Raises:
        StepError: more chunks failed than the settings allow.
        Waiting: chunks are in a batch that is under way.
    """
    settings = context.settings
    writer = make_writer(settings, context.conn)
    batches = Batches(context) if settings.llm_configured else None
    if batches:
        batches.collect()
    asking = QuestionRecorder(context, writer)
    chunks = asking.to_ask()
    budget = budget_of(context.conn, settings, context.run_id)
    rest = batches.sort(chunks, budget) if batches else Sorted(chunks)
    allowance = SpendLimit(budget, settings, make_inquiry(settings), rest.chunks, asking.store)
    allowance.spend(writer.write, asking.add, context.progress)
    asking.reuse()
    collected = batches.counted() if batches else []
    figures = Counter(asking.figures())
    for batch in collected:
        figures.update(batch.counts)
    over_budget = rest.over_budget + len(rest.chunks) - allowance.handed_out
    refuse_if_failing(settings, "questions", int(figures["failed"]), int(figures["asked"] + figures["failed"]))
    note = (
        f"{figures['kept']} questions for {figures['asked']} chunks by {writer.name} ({writer.model}), "
        f"{figures['dropped']} dropped, {figures['failed']} chunks failed"
    )
    if collected:
        note += f"; {len(collected)} batches, {asking.counts['asked'] + asking.counts['failed']} chunks one by one"
    if rest.under_way:
        note += f"; {rest.under_way} chunks are in a batch and left for the next run"
    if over_budget:
        note += f"; the budget is used up: {over_budget} chunks are left for the next run"
    counts: dict[str, int | float] = {
        **figures, "reused": asking.reused, "under_way": rest.under_way, "over_budget": over_budget,
        "cost_usd": round(figures["cost_usd"], 6),
    }  # fmt: skip
    if budget.limited:
        counts["run_budget_usd"] = settings.llm_run_spend_limit_usd
        counts["day_budget_usd"] = settings.llm_day_spend_limit_usd
    return Outcome(counts=counts, note=note)


ASK = Step("ask", ask, None)
