"""Types that every question writer takes and returns, so that the LLM and the extractive writer are interchangeable."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from heal_tasks.core.types import Progress, QuestionKind, silent

T = TypeVar("T")

CallStatus = Literal["ok", "refused", "invalid", "failed"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A question as its writer proposes it, before the filters.

    Args:
        kind: question, keyword (as typed into a search box) or claim (a statement to be supported).
        text: the question, keywords or claim.
        answer: short answer.
        evidence: the passage of the chunk that holds the answer.
    """

    kind: QuestionKind
    text: str
    answer: str
    evidence: str


Drafts = tuple[Draft, ...]


@dataclass(frozen=True, slots=True)
class ChunkToAsk:
    """A text to ask a language model, or the extractive writer, about.

    Args:
        chunk_id: the chunk, under which calls are booked.
        title: title of its document; may be empty.
        text: its text, without the title.
        content_hash: cache key of everything that the prompt says about it.
        problem: what was wrong with an earlier reply; empty for none.
        cut_off: whether an earlier reply had reached the token limit.
        question: a question to be answered from the text; empty where the prompt is about the text itself.
    """

    chunk_id: int
    title: str
    text: str
    content_hash: str
    problem: str = ""
    cut_off: bool = False
    question: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One paid attempt at a language model: a future row of ``heal.llm_call``.

    Args:
        status: ok (usable reply, also an empty list), refused (refusal or content filter), invalid (not the requested
            JSON, or cut off), failed (no reply: the connection, the server or its limits).
        input_tokens: as the server counts them; 0 where it does not say.
        output_tokens: the same for the reply.
        latency_s: wall time, retries and the waits between them included, in seconds.
        raw_reply: the reply as it came, or the error, safe to store as text.
    """

    status: CallStatus
    input_tokens: int
    output_tokens: int
    latency_s: float
    raw_reply: str


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """The answer about one chunk.

    Args:
        chunk: the chunk.
        value: questions, an entity map or an answer; None where there is no usable reply.
        calls: every call in order; empty for the extractive writer.
    """

    chunk: ChunkToAsk
    value: T | None
    calls: tuple[Call, ...] = ()

    @property
    def status(self) -> CallStatus:
        """Status of the last call; ok where none was needed."""
        return self.calls[-1].status if self.calls else "ok"


class Author(NamedTuple):
    """Who wrote questions: ``llm`` or ``extractive``, the model's name, and the prompt hash.

    Model and hash are the cache key: the hash changes whenever the same chunk could give other questions.
    """

    name: str
    model: str
    prompt_hash: str


class Writer(Protocol):
    """Writes questions from chunks."""

    author: Author

    def write(self, chunks: Sequence[ChunkToAsk], progress: Progress = silent) -> Iterator[Answered[Drafts]]:
        """Yield the questions for each chunk, as they finish, so that the caller can store each at once.

        Raises:
            SettingsError: the endpoint rejects the key or does not know the model.
            RetryableError: the endpoint cannot be reached.
        """
