"""Step ask: questions with answers and evidence for every chunk that has none yet, from an LLM or extractively."""

from collections import Counter

from heal_tasks.questions.llm.question_prompt import question_prompt
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.writing.llm_batches import Batches, Remaining
from heal_tasks.steps.writing.llm_calls import refuse_if_failing
from heal_tasks.steps.writing.question_recorder import QuestionRecorder, make_writer
from heal_tasks.steps.writing.spend_limit import AffordableChunks, spend_limit_of


def ask(context: Context) -> Outcome:
    """Write questions for this shard's chunks whose text was never asked about with this prompt and model.

    Results are stored every few chunks: a killed task pays twice only for what was not stored yet. Where the
    spend limit is reached the step ends early, and the next run asks about the rest.

    Returns:
        Counts of chunks asked about, kept and dropped questions, dropped ones by filter, failures, tokens and cost; of
        chunks that needed no call, those in a batch that is not waited for, and those left over by the spend limit.

    Raises:
        StepError: more chunks failed than the settings allow.
        Waiting: chunks are in a batch that is under way.
    """
    settings = context.settings
    writer = make_writer(settings, context.conn)
    author = writer.author
    batches = Batches(context) if settings.llm_configured else None
    if batches:
        batches.collect()
    recorder = QuestionRecorder(context, writer.author)
    chunks, limit = recorder.to_ask(), spend_limit_of(context.conn, settings, context.run_id)
    rest = batches.submit_or_defer(chunks, limit) if batches else Remaining(chunks)
    affordable = AffordableChunks(context, limit, question_prompt(settings.questions_per_chunk), rest.chunks, recorder)
    affordable.ask(writer.write)
    recorder.reuse()
    collected = batches.counted() if batches else []
    figures = Counter(recorder.figures())
    for batch in collected:
        figures.update(batch.counts)
    left_over = rest.over_spend_limit + len(rest.chunks) - affordable.handed_out
    refuse_if_failing("questions", int(figures["failed"]), int(figures["asked"] + figures["failed"]))
    note = (
        f"{figures['kept']} questions for {figures['asked']} chunks by {author.name} ({author.model}), "
        f"{figures['dropped']} dropped, {figures['failed']} chunks failed"
    )
    if collected:
        single = recorder.counts["asked"] + recorder.counts["failed"]
        note += f"; {len(collected)} batches, {single} chunks one by one"
    if rest.under_way:
        note += f"; {rest.under_way} chunks are in a batch and left for the next run"
    if left_over:
        note += f"; the spend limit is reached: {left_over} chunks are left for the next run"
    counts: dict[str, int | float] = {
        **figures, "reused": recorder.reused, "under_way": rest.under_way, "over_spend_limit": left_over,
        "cost_usd": round(figures["cost_usd"], 6),
    }  # fmt: skip
    if limit.limited:
        counts["run_spend_limit_usd"], counts["day_spend_limit_usd"] = limit.run_usd, limit.day_usd
    return Outcome(counts=counts, note=note)


ASK = Step("ask", ask, None)
