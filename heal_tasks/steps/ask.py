"""Step ask: questions with answers and evidence for every chunk that has none yet, from an LLM or extractively."""

from collections import Counter

from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import question_id, stable_id
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Question, Split
from heal_tasks.questions.extractive import ExtractiveWriter
from heal_tasks.questions.filters import apply_filters
from heal_tasks.questions.llm import LLMWriter
from heal_tasks.questions.splits import split_of
from heal_tasks.questions.writer import Call, ChunkToAsk, Writer, Written
from heal_tasks.steps.runner import Context, Outcome, Step
from heal_tasks.store.questions import Asked, LlmCall, QuestionRepository

STORE_EVERY = 50
FAILED_ALLOWED = 10
"""A handful of failed chunks never stops a run, whatever their share; they are asked again next time."""


def make_writer(settings: Settings) -> Writer:
    """The LLM writer where an endpoint or a key is set, else the extractive writer."""
    if not settings.llm_configured:
        return ExtractiveWriter(settings.questions_per_chunk)
    return LLMWriter(
        base_url=settings.llm_base_url,
        api_key=settings.llm_api_key.get_secret_value() if settings.llm_api_key else None,
        model=settings.llm_model,
        questions_per_chunk=settings.questions_per_chunk,
        concurrency=settings.llm_concurrency,
        timeout_s=settings.llm_timeout_s,
        temperature=settings.llm_temperature,
    )


def ask(context: Context) -> Outcome:
    """Write questions for this shard's chunks that were never asked with this prompt and model.

    Results are stored every few chunks, so a killed task pays for nothing twice.

    Args:
        context: of the step.

    Returns:
        Counts of asked chunks, kept and dropped questions, failures, tokens and cost.

    Raises:
        StepError: more chunks failed than the settings allow.
    """
    writer = make_writer(context.settings)
    repository = QuestionRepository(context.conn)
    reused = repository.reuse_cached(writer.prompt_hash, writer.model, _split, context.shard, context.shards)
    document_of: dict[int, int] = {}
    chunks = []
    for chunk in repository.unasked(writer.prompt_hash, writer.model, context.shard, context.shards):
        document_of[chunk.chunk_id] = chunk.document_id
        chunks.append(ChunkToAsk(chunk.chunk_id, chunk.title, chunk.text, chunk.content_hash))

    counts: Counter[str] = Counter(asked=0, kept=0, dropped=0, failed=0, input_tokens=0, output_tokens=0)
    cost_usd, asked, calls = 0.0, list[Asked](), list[LlmCall]()
    try:
        for written in writer.write(chunks, context.progress):
            answered, made = _to_rows(context.settings, writer, written, document_of[written.chunk.chunk_id])
            calls += made
            cost_usd += sum(call.cost_usd for call in made)
            counts["input_tokens"] += sum(call.input_tokens for call in made)
            counts["output_tokens"] += sum(call.output_tokens for call in made)
            if answered is None:
                counts["failed"] += 1
            else:
                asked.append(answered)
                counts["asked"] += 1
                counts["kept"] += len(answered.questions)
                counts["dropped"] += answered.dropped
            if len(asked) + len(calls) >= STORE_EVERY:
                repository.store(context.run_id, asked, calls)
                asked, calls = [], []
    finally:
        # An endpoint that goes away raises; what was answered until then has been paid for.
        repository.store(context.run_id, asked, calls)
    _refuse_if_failing(context.settings, counts["failed"], len(chunks))
    return Outcome(
        counts={**counts, "reused": reused, "cost_usd": round(cost_usd, 6)},
        note=f"{counts['kept']} questions for {counts['asked']} chunks by {writer.name} ({writer.model}), "
        f"{counts['dropped']} dropped, {counts['failed']} chunks failed",
    )


def _split(document_id: int, text: str) -> Split:
    return split_of(document_id, stable_id(text))


def _to_rows(
    settings: Settings, writer: Writer, written: Written, document_id: int
) -> tuple[Asked | None, list[LlmCall]]:
    """What to store of one chunk's reply: None for a chunk that failed and is to be asked again."""
    chunk = written.chunk
    calls = [_ledger_row(settings, writer, chunk, call) for call in written.calls]
    if written.calls and written.calls[-1].status == "failed":
        return None, calls
    kept, dropped = apply_filters(written.drafts, chunk)
    ids = [question_id(chunk.chunk_id, writer.name, draft.text) for draft in kept]
    questions = [
        Question(
            question_id=number, chunk_id=chunk.chunk_id, text=draft.text,
            answer=draft.answer, evidence=draft.evidence, kind=draft.kind, writer=writer.name, model=writer.model,
            prompt_hash=writer.prompt_hash, split=_split(document_id, draft.text),
        )
        for number, draft in zip(ids, kept, strict=True)
    ]  # fmt: skip
    answered = Asked(chunk.chunk_id, chunk.content_hash, writer.prompt_hash, writer.model, questions, dropped.total())
    return answered, calls


def _ledger_row(settings: Settings, writer: Writer, chunk: ChunkToAsk, call: Call) -> LlmCall:
    cost_usd = (
        call.input_tokens * settings.llm_input_usd_per_million
        + call.output_tokens * settings.llm_output_usd_per_million
    ) / 1e6
    return LlmCall(
        "questions", writer.model, writer.prompt_hash, chunk.content_hash, chunk.chunk_id, call.status,
        call.input_tokens, call.output_tokens, cost_usd, call.latency_s, call.raw_reply,
    )  # fmt: skip


def _refuse_if_failing(settings: Settings, failed: int, chunks: int) -> None:
    if failed > FAILED_ALLOWED and failed / chunks > settings.max_failed_share:
        raise StepError(
            f"questions failed for {failed} of {chunks} chunks, more than HEAL_MAX_FAILED_SHARE="
            f"{settings.max_failed_share}; the replies are in heal.llm_call (status failed); the good ones are kept, "
            "and running this step again asks only for the rest"
        )


ASK = Step("ask", ask, None)
