"""What steps that call a language model about chunks have in common: the model, what they ask about, and their bill."""

from collections.abc import Iterable, Sequence

from heal_tasks.core.errors import StepError
from heal_tasks.core.settings import Settings
from heal_tasks.questions.llm.client import LLM
from heal_tasks.questions.writer import Call, ChunkToAsk
from heal_tasks.steps.writing.spend_limit import BATCH_PRICE_FACTOR, cost_usd
from heal_tasks.store.documents.reading import LiveChunk
from heal_tasks.store.llm.ledger import LlmCall

STORE_EVERY = 50
MAX_FAILED_SHARE = 0.2
"""Share of chunks whose calls may fail: with more the endpoint or the model is unfit, and waiting does not help."""
FAILED_ALLOWED = 10
"""A handful of failed chunks never stops a run, whatever their share; they are asked about again next time."""


def make_llm(settings: Settings) -> LLM:
    """The language model that the settings name."""
    return LLM(
        base_url=settings.llm_base_url,
        api_key=settings.llm_api_key.get_secret_value() if settings.llm_api_key else None,
        model=settings.llm_model,
        concurrency=settings.llm_concurrency,
        timeout_s=settings.llm_timeout_s,
    )


def one_per_text(chunks: Iterable[LiveChunk]) -> list[ChunkToAsk]:
    """The chunks to ask about: the first of each text. Its copies get what comes of it afterwards."""
    by_text: dict[str, ChunkToAsk] = {}
    for chunk in chunks:
        by_text.setdefault(chunk.content_hash, ChunkToAsk(chunk.chunk_id, chunk.title, chunk.text, chunk.content_hash))
    return list(by_text.values())


class Bill:
    """The calls of a step.

    Args:
        settings: prices.
        purpose: what the calls are for, as in ``heal.llm_call``.
        model: who is called.
        prompt_hash: of the prompt.
        batch_id: the batch that the calls are part of, and cheaper for; None for calls by themselves.

    Attributes:
        calls: those that are not in the ledger yet.
        input_tokens: of all calls.
        output_tokens: of all calls.
        cost_usd: of all calls.
    """

    def __init__(
        self, settings: Settings, purpose: str, model: str, prompt_hash: str, batch_id: str | None = None
    ) -> None:
        self._settings, self._purpose, self._model, self._prompt_hash = settings, purpose, model, prompt_hash
        self._batch_id = batch_id
        self._price_factor = BATCH_PRICE_FACTOR if batch_id else 1.0
        self.calls: list[LlmCall] = []
        self.input_tokens = self.output_tokens = 0
        self.cost_usd = 0.0

    def add(self, chunk: ChunkToAsk | None, calls: Sequence[Call]) -> None:
        """Take in what was called about a chunk; about none, to get to know the endpoint."""
        text, chunk_id = (chunk.content_hash, chunk.chunk_id) if chunk else ("", None)
        for call in calls:
            cost = self._price_factor * cost_usd(self._settings, call.input_tokens, call.output_tokens)
            self.calls.append(
                LlmCall(
                    self._purpose, self._model, self._prompt_hash, text, chunk_id, call.status,
                    call.input_tokens, call.output_tokens, cost, call.latency_s, call.raw_reply, self._batch_id,
                )
            )  # fmt: skip
            self.input_tokens += call.input_tokens
            self.output_tokens += call.output_tokens
            self.cost_usd += cost

    def figures(self) -> dict[str, int | float]:
        """Tokens and cost, as counts of a manifest."""
        return {
            "input_tokens": self.input_tokens, "output_tokens": self.output_tokens, "cost_usd": round(self.cost_usd, 6),
        }  # fmt: skip


def refuse_if_failing(settings: Settings, what: str, failed: int, chunks: int) -> None:
    """End a step whose calls fail too often.

    Args:
        settings: the share that may fail.
        what: was asked for.
        failed: chunks without an answer.
        chunks: chunks asked about.

    Raises:
        StepError: more failed than may.
    """
    if failed > FAILED_ALLOWED and failed / chunks > MAX_FAILED_SHARE:
        raise StepError(
            f"{what} failed for {failed} of {chunks} chunks, more than "
            f"{MAX_FAILED_SHARE:.0%}; the replies are in heal.llm_call (status failed); the good ones are kept, "
            "and running this step again asks only for the rest"
        )
