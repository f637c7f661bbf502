"""The request fields that a server understands, and the probe that finds out before the first chunk is paid for."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from heal_tasks.core.types import JsonObject
from heal_tasks.questions.llm.prompt_spec import EXTRA_BYTES

ReplyMode = Literal["json_schema", "json_object", "text"]
TokenLimit = Literal["max_completion_tokens", "max_tokens"]

_LOOSER: dict[ReplyMode, ReplyMode] = {"json_schema": "json_object", "json_object": "text"}

PROBED = "capability probe"
"""Beginning of the stored reply to a probe."""

PROBE_TOKENS = 2048
"""Token limit of a reply to the capability probe."""

_MAX_PROBES = 2
MOST_PROBE_TOKENS = (_MAX_PROBES * EXTRA_BYTES, _MAX_PROBES * PROBE_TOKENS)
"""Bound of the input and output tokens of the probe before a writer's first chunk."""

# It hints at nothing of the schema; json_object mode requires the word JSON.
_PROBE = "Reply with one short JSON object about the sea and nothing else."


@dataclass(frozen=True, slots=True)
class Dialect:
    """The request fields that a server understands; replies are described and validated alike in all modes."""

    reply: ReplyMode  # a schema that the server enforces, any JSON object, or text
    limit: TokenLimit
    temperature: bool = True  # it may be sent

    def fields(self, schema: JsonObject, token_limit: int, temperature: float) -> JsonObject:
        """Request fields beside model and messages, by name."""
        fields: JsonObject = {self.limit: token_limit}
        if self.temperature:
            fields["temperature"] = temperature
        if self.reply == "json_schema":
            named = {"name": schema.get("title", "Reply"), "strict": True, "schema": schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self.reply == "json_object":
            fields["response_format"] = {"type": "json_object"}
        return fields

    def simpler(self, complaint: str) -> Iterator["Dialect"]:
        """Dialects to try instead, first the one without the field that the server's complaint names."""
        if "temperature" in complaint:
            yield replace(self, temperature=False)
        if self.limit in complaint:
            other: TokenLimit = "max_tokens" if self.limit == "max_completion_tokens" else "max_completion_tokens"
            yield replace(self, limit=other)
        if self.reply != "text":
            yield self.looser()

    def looser(self) -> "Dialect":
        """The same with the next looser reply mode."""
        return replace(self, reply=_LOOSER[self.reply])


class Probe:
    """A request that shows whether a server enforces a schema.

    Some servers accept a schema and ignore it (Ollama Cloud, proxies that drop unknown fields). Only one that enforces
    it, or shows it to the model, can return the random key and value that it requires.
    """

    def __init__(self) -> None:
        self._key, self._value = f"k{secrets.token_hex(6)}", f"v{secrets.token_hex(6)}"
        self.messages = [{"role": "user", "content": _PROBE}]
        self.schema: JsonObject = {
            "title": "Probe",
            "type": "object",
            "properties": {self._key: {"type": "string", "enum": [self._value]}},
            "required": [self._key],
            "additionalProperties": False,
        }

    def obeyed(self, mode: ReplyMode, content: str) -> bool:
        """True if the model's text is what the mode promises: exactly the secret object, any JSON object, or text."""
        if mode == "text":
            return True
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            return False
        return value == {self._key: self._value} if mode == "json_schema" else isinstance(value, dict)
