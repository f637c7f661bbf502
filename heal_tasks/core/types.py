"""The records that travel between packages; all are frozen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

JsonObject = dict[str, Any]

BATCH_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""Statuses of a batch at an endpoint that do not change any more; Airflow's triggerer imports no client."""

QuestionKind = Literal["question", "keyword", "claim"]

Split = Literal["train", "seen_validation", "seen_test", "unseen_validation", "unseen_test"]


class Progress(Protocol):
    """Receiver of the progress of long work; called at most a few times a second."""

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """Report ``done`` of ``total`` units."""


def silent(done: int, total: int, message: str = "") -> None:
    """A Progress that says nothing."""
    del done, total, message


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file or object of a source, as listed, before it is read."""

    path: str  # relative to the source, with forward slashes, as ``core.ids.natural_key`` makes it
    fingerprint: str  # changes when the content may have changed (ETag, or size and modification time)
    size_bytes: int
    real: str = ""  # its path in the source, where that differs
    kind: str = ""  # the suffix that chooses its parser, where its name has none or another
    left_out: str = ""  # why it is listed but cannot be a document (a link that leads away); empty for all others

    @property
    def real_path(self) -> str:
        """The path that it is read by."""
        return self.real or self.path


@dataclass(frozen=True, slots=True)
class Record:
    """One document of a source."""

    external_id: str  # unique within the source
    title: str  # one line; may be empty
    body: str  # never empty
    metadata: Mapping[str, Any] = field(default_factory=dict)  # JSON-serialisable
    path: str = ""  # the source file
    line: int = 0  # 1-based line or row in that file; 0 where the whole file is the document


@dataclass(frozen=True, slots=True)
class Rejected:
    """One rejected input: a future row of ``heal.quarantine``."""

    path: str  # the source file
    line: int  # 1-based line or row; 0 for the whole file
    reason: str  # the fault, the value, and the cure
    raw: str = ""  # the beginning of the input, safe to store as text
    records: int = 1  # number of records that were lost with it, estimated for a file that cannot be read at all


@dataclass(frozen=True, slots=True)
class Unread(Rejected):
    """A file that could not be read this time: rights, a lost disk, an archived object. The next run tries again."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question that a chunk answers, as stored in ``heal.question``."""

    question_id: int
    chunk_id: int
    text: str
    answer: str
    evidence: str
    kind: QuestionKind
    writer: str
    model: str
    prompt_hash: str
    split: Split


TokenCounter = Callable[[str], int]
