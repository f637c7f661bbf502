"""Types that every question writer takes and returns, so that the LLM and the extractive writer are interchangeable."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from heal_tasks.core.types import QuestionKind
from heal_tasks.endpoint.calls import Call, CallStatus

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draft:
    """A question as its writer proposes it, before the filters."""

    kind: QuestionKind
    text: str
    answer: str
    evidence: str  # the passage of the chunk that holds the answer


Drafts = tuple[Draft, ...]


@dataclass(frozen=True, slots=True)
class ChunkToAsk:
    """A text to ask a language model, or the extractive writer, about."""

    chunk_id: int  # calls are booked under it
    title: str  # of its document; may be empty
    text: str  # without the title
    content_hash: str  # cache key of everything that the prompt says about it
    problem: str = ""  # the error in an earlier reply
    cut_off: bool = False  # an earlier reply had reached the token limit
    question: str = ""  # to be answered from the text; empty where the prompt is about the text itself
    failed_before: bool = False  # an earlier run has asked about it in vain


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """The answer about one chunk: questions, an entity map or an answer to a question."""

    chunk: ChunkToAsk
    value: T | None  # None where there is no usable reply
    calls: tuple[Call, ...] = ()  # in order; empty for the extractive writer

    @property
    def status(self) -> CallStatus:
        """Status of the last call; ok where none was needed."""
        return self.calls[-1].status if self.calls else "ok"


Write = Callable[[Iterable[ChunkToAsk]], Iterator[Answered[T]]]
"""Answers chunks as they finish, so that the caller can store each at once; raises as ``LLM.ask`` does."""


class Author(NamedTuple):
    """The writer of questions. Model and prompt hash are the cache key of everything that it writes."""

    name: str  # llm or extractive
    model: str
    prompt_hash: str  # changes whenever the same chunk could give other questions
