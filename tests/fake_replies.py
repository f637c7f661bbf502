"""Replies of the fake endpoint: errors, and completions whose content is made from the passage in the prompt."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

_SENTENCE = re.compile(r"[^.!?]+[.!?]?")


@dataclass(frozen=True)
class Reply:
    """What the server sends: an HTTP status, a body (text is sent as it is), headers, after a delay.

    Or what it does instead: ``drop`` closes the connection, ``reset`` with a reset, ``cut`` in the middle of the body;
    ``drip`` sends the body so slowly that it never ends, ``slow_head`` the headers; ``endless`` sends body after body
    as fast as it is read; ``hang`` sends nothing until the client has gone.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    fault: Literal["none", "drop", "reset", "cut", "drip", "slow_head", "endless", "hang"] = "none"


def completion(
    content: str | None,
    *,
    finish_reason: str = "stop",
    refusal: str | None = None,
    usage: tuple[int, int] | None = (100, 20),
    delay_s: float = 0.0,
) -> Reply:
    """A chat completion with one choice."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
            }
        ],
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(body, delay_s=delay_s)


def error(status: int, message: str, *, code: str | None = None, **headers: str) -> Reply:
    """An error in OpenAI's form; ``retry_after_ms="1"`` becomes the header ``retry-after-ms``."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message, "type": "error", "code": code, "param": None}}, status, sent)


def queries(passage: str, title: str = "") -> list[dict[str, str]]:
    """Usable items made from a passage: one of each type, with its first sentences as evidence."""
    found = [s.strip() for s in _SENTENCE.findall(" ".join(passage.split())) if len(s.split()) >= 4] or [passage]
    items = []
    for number, kind in enumerate(("question", "keyword", "claim")):
        evidence = found[number % len(found)]
        salient = sorted(dict.fromkeys(re.findall(r"[\w-]{4,}", evidence)), key=lambda word: (-len(word), word))[:5]
        text = {
            "question": f"What is known about {' and '.join(salient[:3])} in practice?",
            "keyword": " ".join(salient),
            "claim": f"It has been reported that {' '.join(salient)} belong together.",
        }[kind]
        items.append({"type": kind, "query": text, "answer": evidence, "evidence_quote": evidence})
    return items


def entity_map(passage: str) -> dict[str, Any]:
    """A map of a passage: some of its long words; a value, an entity and a relation that it does not hold."""
    found = list(dict.fromkeys(re.findall(r"\b[^\W\d_]{5,}\b", passage))) or ["nothing"]
    entities: list[dict[str, Any]] = [{"id": "a", "type": "place", "name": "Atlantis", "attributes": []}]
    relations = [{"source": "a", "predicate": "holds", "target": "e0"}]
    for start in range(0, min(len(found), 3 * (1 + len(passage.split()) // 20)), 3):
        name, value, other = (found[start : start + 3] * 3)[:3]
        facts = [{"key": "with", "value": value}, {"key": "mass", "value": "777 kg"}]
        entities.append({"id": f"e{start}", "type": "product", "name": name, "attributes": facts})
        entities.append({"id": f"e{start + 1}", "type": "event", "name": other, "attributes": []})
        relations.append({"source": f"e{start}", "predicate": "has", "target": f"e{start + 1}"})
    return {"entities": entities, "relations": relations}


def reading(question: str, passages: str) -> dict[str, str]:
    """The sentence that shares most words with a question, as answer and as evidence; empty where none shares two."""
    asked = set(re.findall(r"\w+", question.lower()))
    sentences = [sentence.strip() for line in passages.splitlines() for sentence in _SENTENCE.findall(line)]
    best = max(sentences, key=lambda sentence: len(asked & set(re.findall(r"\w+", sentence.lower()))), default="")
    found = best if len(asked & set(re.findall(r"\w+", best.lower()))) > 1 else ""
    return {"answer": found, "evidence_quote": found}
