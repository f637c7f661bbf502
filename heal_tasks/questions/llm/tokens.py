"""Limits of tokens, and the most that asking about a chunk can cost under them, for a budget to keep."""

import json
from typing import Any

from heal_tasks.questions.llm.prompt_spec import PromptSpec
from heal_tasks.questions.writer import ChunkToAsk

TOKENS_PER_QUESTION = 512
"""Limit of a reply, per question asked for and once more."""

TOKENS_PER_MAP = 2048
"""Limit of a reply with an entity map. JSON takes about four to five tokens for one of the chunk's."""

MAX_CORRECTIONS = 2
"""Replies asked for again because they were not valid, with the error appended."""

PROBE_TOKENS = 2048
"""Limit of a reply to the capability probe."""

# One reply with the limit; with twice the limit one after a reply that was cut off, and the corrections.
_CALLS = 2 + MAX_CORRECTIONS
_LIMITS = 1 + 2 * (_CALLS - 1)
_PROBES = 2

# What a server puts around the messages, and the complaint about a reply that was not valid.
_EXTRA_BYTES = 1000


def most_tokens(inquiry: PromptSpec[Any], chunk: ChunkToAsk) -> tuple[int, int]:
    """Upper bounds over all calls for a chunk.

    Args:
        inquiry: what is asked.
        chunk: the chunk.

    Returns:
        Tokens in and tokens out. No tokenizer makes more tokens of a text than it has bytes.
    """
    sent, limit = most_first_tokens(inquiry, chunk)
    return _CALLS * sent, _LIMITS * limit


def most_first_tokens(inquiry: PromptSpec[Any], chunk: ChunkToAsk) -> tuple[int, int]:
    """The same for the first call alone, as in a batch."""
    sent = sum(len(message["content"].encode()) for message in inquiry.messages(chunk, ""))
    return sent + len(json.dumps(inquiry.schema)) + _EXTRA_BYTES, inquiry.token_limit


def most_probe_tokens() -> tuple[int, int]:
    """Upper bounds for the probe that comes before a writer's first chunk: tokens in and tokens out."""
    return _PROBES * _EXTRA_BYTES, _PROBES * PROBE_TOKENS
