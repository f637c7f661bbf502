"""The text of a document, as a parser that runs in the parser process extracts it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Extract:
    """Title, text and metadata of a document."""

    title: str  # may be empty
    body: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


class UnreadableError(Exception):
    """A document that cannot be read; the message says why and what to do."""
