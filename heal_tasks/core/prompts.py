"""Prompts of embedding models: those in a model's own configuration, and those that families were trained with."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from heal_tasks.core.models import NO_OPTIONS, ModelOptions, Role

_NAMES: dict[Role, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Keys of prompts in configurations, as sentence-transformers reads them."""

_SEARCH = "Represent this sentence for searching relevant passages: "
_FAMILIES = {
    r"e5-.*instruct|e5-mistral": (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ", ""
    ),
    r"(^|[-_/:])e5-": ("query: ", "passage: "),
    r"bge-.*-en(-|$)": (_SEARCH, ""),
    r"bge-.*-zh(-|$)": ("为这个句子生成表示以用于检索相关文章：", ""),
    r"nomic-embed-text": ("search_query: ", "search_document: "),
    r"arctic-embed-.*-v2": ("query: ", ""),
    r"arctic-embed|mxbai-embed|mdbr-leaf": (_SEARCH, ""),
    r"embeddinggemma": ("task: search result | query: ", "title: none | text: "),
    r"qwen3-embedding": (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:", ""
    ),
}  # fmt: skip
"""For families by a part of their names: the prompts of questions and of texts that their model cards tell to use; the
first that fits counts."""


def own_prompt(prompts: Mapping[str, str | None], default: str | None, role: Role) -> str:
    """The prompt of a model's configuration for a role; empty where it has none.

    The default prompt counts for a role that has none of its own, unless it is the other role's.
    """
    for name in _NAMES[role]:
        if prompt := prompts.get(name):
            return prompt
    others = [name for names in _NAMES.values() for name in names]
    return "" if default is None or default in others else prompts.get(default) or ""


def prompts_in(folder: str | Path) -> ModelOptions:
    """The prompts in the configuration of a model's folder."""
    try:
        config = json.loads((Path(folder) / "config_sentence_transformers.json").read_text("utf-8"))
        prompts, default = dict(config.get("prompts") or {}), config.get("default_prompt_name")
    except (OSError, ValueError, TypeError, AttributeError):
        prompts, default = {}, None
    return ModelOptions(0, own_prompt(prompts, default, "query"), own_prompt(prompts, default, "document"))


def missing_prompts(model: str, options: ModelOptions, folder: str | Path | None) -> str:
    """A sentence about the prompts that a model of a known family would be used without; empty if it has them.

    Args:
        model: its name, folder or ``openai:NAME``; the family is told by it.
        options: as set.
        folder: with its files; None where they are not here.
    """
    own = NO_OPTIONS if folder is None else prompts_in(folder)
    name = "/".join(Path(model).parts[-3:]).lower()
    known = next((known for part, known in _FAMILIES.items() if re.search(part, name)), None)
    if known is None:
        return ""
    roles: tuple[Role, Role] = ("query", "document")
    wanted = list[tuple[str, str]]()
    for role, trained in zip(roles, known, strict=True):
        given = options.prompt(role)
        used = (own.prompt(role) or "") if given is None else given
        if used != trained and used.strip() in ("", trained.strip()):  # another prompt is meant
            wanted.append((role, trained))
    if not wanted:
        return ""
    texts = " and ".join(f"{trained!r} before every {role}" for role, trained in wanted)
    cures = " and ".join(
        f"HEAL_{role.upper()}_PROMPT={json.dumps(trained, ensure_ascii=False)}" for role, trained in wanted
    )
    unless = ", unless it adds them itself" if folder is None else ""
    return f"{model} was trained with {texts}; set {cures}{unless}"
