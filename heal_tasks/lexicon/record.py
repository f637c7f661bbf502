"""The record of a lexicon, stored with the generation: options of the fit, and weights for queries."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

RIDGE = 0.3
"""Weight of the ridge penalty: the best of .1, .3 and 1 on ATT&CK (bench/RESULTS.md)."""
LEXICON_WEIGHT = 0.75
"""Weight of the lexicon's vector beside an encoder's where no human questions choose it."""
WORDS_WEIGHT = 0.1
"""Weight of shared words beside similarity by vector where no human questions choose it."""


@dataclass(frozen=True)
class LexiconRecord:
    """Options of a lexicon's fit, and the weights with which queries use it."""

    ridge: float = RIDGE
    question_weight: float = 0.0  # weight of a question that has an answer, where a chunk has 1
    by_people: bool = False  # True if only human questions count as such
    served_targets: bool = False  # True if chunks point to their served vectors, moved by NUDGE, not to the encoder's
    lexicon_weight: float = LEXICON_WEIGHT  # beside an encoder's vector of unit length
    words_weight: float = WORDS_WEIGHT  # beside a similarity
    chunks: int = 0  # chunks that the inverse document frequencies count
    public: bool = False  # True if its stems are those of chunks that everybody may read
    relevance: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)  # by query path: scores, shares

    def to_json(self) -> dict[str, Any]:
        """The record as ``heal.generation.lexicon`` stores it."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "LexiconRecord":
        """The record that ``to_json`` wrote."""
        return cls(**stored)
