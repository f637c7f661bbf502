"""Token limits, and the most tokens that asking about a chunk can take under them, for a spend limit to reserve."""

import json
from typing import Any

from heal_tasks.questions.llm.prompt_spec import PromptSpec
from heal_tasks.questions.writer import ChunkToAsk

TOKENS_PER_QUESTION = 512
"""Token limit of a reply per question asked for, and once more."""

TOKENS_PER_MAP = 2048
"""Token limit of a reply with an entity map: JSON takes four to five tokens for one of the chunk's."""

MAX_CORRECTIONS = 2
"""Replies asked for again because they were invalid, with the error appended."""

PROBE_TOKENS = 2048
"""Token limit of a reply to the capability probe."""

# The first reply at the limit; at twice the limit one after a reply that was cut off, and the corrections.
_CALLS = 2 + MAX_CORRECTIONS
_LIMITS = 1 + 2 * (_CALLS - 1)
_PROBES = 2

# Whatever a server puts around the messages, and the problem named to the model.
_EXTRA_BYTES = 1000


def most_tokens(spec: PromptSpec[Any], chunk: ChunkToAsk) -> tuple[int, int]:
    """Bound the input and output tokens of all calls about a chunk; no tokenizer makes more tokens than bytes."""
    sent, limit = most_first_tokens(spec, chunk)
    return _CALLS * sent, _LIMITS * limit


def most_first_tokens(spec: PromptSpec[Any], chunk: ChunkToAsk) -> tuple[int, int]:
    """Bound the input and output tokens of the first call alone, as in a batch."""
    sent = sum(len(message["content"].encode()) for message in spec.messages(chunk))
    return sent + len(json.dumps(spec.schema)) + _EXTRA_BYTES, spec.token_limit


def most_probe_tokens() -> tuple[int, int]:
    """Bound the input and output tokens of the capability probe before a writer's first chunk."""
    return _PROBES * _EXTRA_BYTES, _PROBES * PROBE_TOKENS
