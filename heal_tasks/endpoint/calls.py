"""A paid call as the ledger books it, the tokens that a reply reports, and messages without secrets."""

from dataclasses import dataclass
from typing import Literal

from pydantic import AliasPath, BaseModel, Field, ValidationError

from heal_tasks.core.redaction import redacted
from heal_tasks.core.text import storable

CallStatus = Literal["ok", "refused", "invalid", "failed"]
"""ok: usable, also an empty list; refused: a refusal or content filter; invalid: not the requested JSON, or cut off;
failed: no reply, because of the connection, the server or its limits."""


_TOKEN_BYTES = 3  # of a token, at least in English, where it is four; a guess keeps a spend limit and is to be too high
_ERROR_CHARS = 2000
_MOST_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True)
class Call:
    """One paid attempt at a language model: a future row of ``heal.llm_call``."""

    status: CallStatus
    input_tokens: int  # as the server counts them; 0 where it does not say
    output_tokens: int
    latency_s: float  # wall time, retries and the waits between them included
    raw_reply: str  # the reply as it came, or the error, safe to store as text
    guessed_tokens: tuple[int, int] = (0, 0)  # input and output by their sizes, for a reply without counts

    @property
    def guessed(self) -> bool:
        """True if the tokens are guessed."""
        return any(self.guessed_tokens)

    @property
    def booked_tokens(self) -> tuple[int, int]:
        """Input and output tokens that are charged."""
        return self.guessed_tokens if self.guessed else (self.input_tokens, self.output_tokens)


class _Usage(BaseModel):
    sent: int | None = Field(None, validation_alias=AliasPath("usage", "prompt_tokens"))
    received: int | None = Field(None, validation_alias=AliasPath("usage", "completion_tokens"))
    total: int | None = Field(None, validation_alias=AliasPath("usage", "total_tokens"))


def reported_tokens(body: str) -> tuple[int, int]:
    """Input and output tokens that a body reports, error bodies included; 0 where it does not, or nothing possible.

    Some gateways count the tokens of reasoning, which are paid for as output, only in the total.
    """
    try:
        usage = _Usage.model_validate_json(body.lstrip("\ufeff"))
    except ValidationError:
        return 0, 0
    sent, received, total = (
        count if count is not None and 0 <= count <= _MOST_TOKENS else 0
        for count in (usage.sent, usage.received, usage.total)
    )
    return sent, max(received, total - sent) if sent else received


def guess_tokens(size_bytes: int) -> int:
    """The most tokens that a text of some bytes has, for endpoints that count none."""
    return -(-size_bytes // _TOKEN_BYTES)


def without_key(text: str, key: str | None) -> str:
    """The beginning of a message that can be stored, without the endpoint's key, passwords and other secrets."""
    text = storable(text)
    return redacted(text.replace(key, "[key]") if key else text)[:_ERROR_CHARS]
