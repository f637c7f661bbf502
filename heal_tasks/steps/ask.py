"""Step ask: questions with answers and evidence for every chunk that has none yet, from an LLM or extractively."""

from collections import Counter

from heal_tasks.questions.llm.question_prompt import question_prompt
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.writing.llm_batches import Batches, Remaining
from heal_tasks.steps.writing.llm_calls import AffordableChunks, left_over_note, spend_limit_of
from heal_tasks.steps.writing.question_recorder import QuestionRecorder, make_writer


def ask(context: Context) -> Outcome:
    """Generate questions for this shard's chunks whose text was never asked about with this prompt and model.

    Results are stored every few chunks: a killed task pays twice only for what was not stored yet. Where the
    spend limit is reached the step ends early, and the next run asks about the rest.
    """
    settings = context.settings
    author, write = make_writer(settings, context.conn)
    batches = Batches(context) if settings.llm_configured else None
    if batches:
        batches.collect()
    recorder = QuestionRecorder(context, author)
    chunks = recorder.to_ask()
    rest = batches.submit_or_defer(chunks) if batches else Remaining(chunks)
    AffordableChunks(recorder, question_prompt(settings.questions_per_chunk), rest.chunks).ask(write)
    recorder.reuse()
    collected = batches.counted() if batches else []
    figures = Counter(recorder.figures())
    for batch in collected:
        figures.update(batch.counts)
    figures["over_spend_limit"] += rest.over_spend_limit
    recorder.refuse_if_failing(int(figures["failed"]), int(figures["asked"] + figures["failed"]))
    note = (
        f"{figures['kept']} questions for {figures['asked']} chunks by {author.name} ({author.model}), "
        f"{figures['dropped']} dropped, {figures['failed']} chunks failed"
    )
    if figures["refused"]:
        note += f", {figures['refused']} refused"
    if collected:
        single = recorder.counts["asked"] + recorder.counts["failed"]
        note += f"; {len(collected)} batches, {single} chunks one by one"
    if rest.under_way:
        note += f"; {rest.under_way} chunks are in a batch and left for the next run"
    note += left_over_note(figures)
    cost_usd = round(figures["cost_usd"], 6)
    counts: dict[str, int | float] = {**figures, "under_way": rest.under_way, "cost_usd": cost_usd}
    if (limit := spend_limit_of(context)).limited:
        counts["run_spend_limit_usd"], counts["day_spend_limit_usd"] = limit.run_usd, limit.day_usd
    undone = ""
    if (tried := figures["asked"] + figures["failed"]) and not figures["kept"]:
        filters = ", ".join(f"{name[8:]} {number:g}" for name, number in figures.items() if name[:8] == "dropped_")
        undone = f"No questions: {tried:g} chunks were asked about, {figures['failed']:g} failed, and none was kept of "
        undone += f"{figures['dropped']:g}" + (f" ({filters})" if figures["dropped"] else "")
    return Outcome(counts=counts, note=note, undone=undone)


def _inputs(context: Context) -> object:
    # Another writer, set for a second try in one run, is asked, too.
    settings = context.settings
    return [settings.llm_model if settings.llm_configured else "", settings.questions_per_chunk]


ASK = Step("ask", ask, _inputs, of_run=True)
