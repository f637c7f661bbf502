"""Common parts of the steps that call a language model: the model, its prices, the chunks to ask about, failures."""

from collections.abc import Iterable

from heal_tasks.core.errors import StepError
from heal_tasks.core.settings import Settings
from heal_tasks.questions.llm.client import LLM
from heal_tasks.questions.llm.endpoint import EndpointConfig
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.store.documents.chunks import LiveChunk

MAX_FAILED_SHARE = 0.2
"""Share of chunks whose calls may fail: with more the endpoint or the model is unfit, and waiting does not help."""
FAILED_ALLOWED = 10
"""Number of failed chunks that never stops a run, whatever their share; they are asked about again next time."""

BATCH_PRICE_FACTOR = 0.5
"""Price of a call in a batch as a share of a single call's, at OpenAI and at those that copy its Batch API."""


def make_llm(settings: Settings) -> LLM:
    """The language model that the settings name."""
    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
    config = EndpointConfig(settings.llm_url, key, settings.llm_model, settings.llm_timeout_s)
    return LLM(config, settings.llm_concurrency)


def cost_usd(settings: Settings, input_tokens: int, output_tokens: int) -> float:
    """The price of tokens, in USD."""
    return (
        input_tokens * settings.llm_input_usd_per_million + output_tokens * settings.llm_output_usd_per_million
    ) / 1e6


def one_per_text(chunks: Iterable[LiveChunk]) -> list[ChunkToAsk]:
    """The first chunk of each text; its copies are given its results afterwards."""
    by_text: dict[str, ChunkToAsk] = {}
    for chunk in chunks:
        by_text.setdefault(chunk.content_hash, ChunkToAsk(chunk.chunk_id, chunk.title, chunk.text, chunk.content_hash))
    return list(by_text.values())


def refuse_if_failing(what: str, failed: int, chunks: int) -> None:
    """Raise StepError where more than ten and more than a fifth of the chunks have failed."""
    if failed > FAILED_ALLOWED and failed / chunks > MAX_FAILED_SHARE:
        raise StepError(
            f"{what} failed for {failed} of {chunks} chunks, more than {MAX_FAILED_SHARE:.0%}; the replies are in "
            "heal.llm_call (status failed); the good ones are kept, and running this step again asks only for the rest"
        )
