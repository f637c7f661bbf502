"""The most tokens that writing questions about a chunk can cost, for a budget that must not be passed."""

import json

from heal_tasks.questions.prompts import messages, reply_schema
from heal_tasks.questions.writer import ChunkToAsk

# The policy of LLMWriter, which a test compares with the requests that it sends: one reply with the limit, and with
# twice the limit one after a reply that was cut off and two after replies that were not valid.
_TOKENS_PER_QUESTION = 512
_CALLS = 4
_LIMITS = 1 + 2 * (_CALLS - 1)

_PROBE_TOKENS = 2048
_PROBES = 2

# What a server puts around the messages, and the complaint about a reply that was not valid.
_EXTRA_BYTES = 1000


def most_tokens(chunk: ChunkToAsk, questions_per_chunk: int) -> tuple[int, int]:
    """Upper bounds over all calls for a chunk.

    Args:
        chunk: the chunk.
        questions_per_chunk: how many questions are asked for.

    Returns:
        Tokens in and tokens out. No tokenizer makes more tokens of a text than it has bytes.
    """
    sent = sum(len(message["content"].encode()) for message in messages(chunk, questions_per_chunk))
    sent += len(json.dumps(reply_schema())) + _EXTRA_BYTES
    return _CALLS * sent, _LIMITS * _TOKENS_PER_QUESTION * (questions_per_chunk + 1)


def most_probe_tokens() -> tuple[int, int]:
    """Upper bounds for the probe that comes before a writer's first chunk: tokens in and tokens out."""
    return _PROBES * _EXTRA_BYTES, _PROBES * _PROBE_TOKENS
