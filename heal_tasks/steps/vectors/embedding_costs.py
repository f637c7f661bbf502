"""The price of texts that an API embeds: the ledger's rows, and the error where a spend limit leaves no room."""

from collections.abc import Sequence

from heal_tasks.core.errors import StepError
from heal_tasks.core.settings import Settings
from heal_tasks.endpoint.calls import Call, guess_tokens
from heal_tasks.steps.writing.llm_calls import BATCH_PRICE_FACTOR, embedding_cost_usd
from heal_tasks.store.llm.batches import Batch
from heal_tasks.store.llm.ledger import EMBEDDINGS, LlmCall, SpendLimit
from heal_tasks.store.spaces.spaces import Space


def ledger_row(settings: Settings, space: Space, call: Call, batch: Batch | None = None) -> LlmCall:
    """The row of a call, or of some in a batch together."""
    factor, batch_id = (BATCH_PRICE_FACTOR, batch.batch_id) if batch else (1.0, None)
    cost = factor * embedding_cost_usd(settings, call.booked_tokens[0])
    return LlmCall(
        EMBEDDINGS, space.model_uri, space.model_sha256, "", None, call.status, *call.booked_tokens, cost,
        call.latency_s, call.raw_reply, batch_id, call.guessed,
    )  # fmt: skip


def most_usd(settings: Settings, text: str) -> float:
    """The most that a text can cost outside a batch."""
    return embedding_cost_usd(settings, guess_tokens(len(text.encode())))


def refuse_over_limit(limit: SpendLimit, texts: Sequence[str], usd: float, left: int) -> None:
    """Raise StepError where the limits may not allow for these texts, of ``left`` that have no vector yet."""
    left_usd = limit.left_usd(limit.spending()) if limit.limited else usd
    if usd > left_usd:
        raise StepError(
            f"the spend limit is reached: {left} texts have no vector yet, the next {len(texts)} of them may cost "
            f"{usd:.4f} USD, and {max(left_usd, 0.0):.4f} USD are left. Raise HEAL_LLM_RUN_SPEND_LIMIT_USD or "
            "HEAL_LLM_DAY_SPEND_LIMIT_USD, or run the step again tomorrow; what is embedded is kept"
        )
