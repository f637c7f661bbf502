"""What a language model is asked about every chunk, and what came of it, whatever is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from heal_tasks.core.ids import fingerprint
from heal_tasks.core.types import JsonObject
from heal_tasks.questions.llm.prompts import FRAME, conversation
from heal_tasks.questions.writer import Call, CallStatus, ChunkToAsk

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PromptSpec(Generic[T]):
    """What is asked.

    Args:
        messages: the conversation about a chunk: role and content of each message. Its second argument says what was
            wrong with the previous reply and is empty at the first attempt.
        schema: of the reply.
        token_limit: for the reply; twice that where a reply was cut off.
        parse: reads a model's text; raises ValueError, whose message the model is shown, where it is no use.
        prompt_hash: changes whenever anything but the chunk changes in what is asked.
        temperature: sampling temperature.
    """

    messages: Callable[[ChunkToAsk, str], list[dict[str, str]]]
    schema: JsonObject
    token_limit: int
    parse: Callable[[str], T]
    prompt_hash: str
    temperature: float


def exact_inquiry(
    instructions: str, version: str, schema: JsonObject, token_limit: int, parse: Callable[[str], T]
) -> PromptSpec[T]:
    """What has one right answer, and is asked for at temperature 0.

    Args:
        instructions: the prompt before the chunk.
        version: of the prompt.
        schema: of the reply.
        token_limit: for the reply.
        parse: see ``PromptSpec``.
    """
    return PromptSpec(
        messages=lambda chunk, problem: conversation(instructions, chunk, problem),
        schema=schema,
        token_limit=token_limit,
        parse=parse,
        prompt_hash=fingerprint([version, instructions, *FRAME, schema]),
        temperature=0.0,
    )


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """What came of one chunk.

    Args:
        chunk: the chunk.
        value: what its reply was read into; None where there is no usable one.
        calls: every attempt in order, one at least; the last one's status is the chunk's.
    """

    chunk: ChunkToAsk
    value: T | None
    calls: tuple[Call, ...]

    @property
    def status(self) -> CallStatus:
        """Status of the last call."""
        return self.calls[-1].status
