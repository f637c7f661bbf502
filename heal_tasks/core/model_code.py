"""Refuses models that bring Python code of their own, before anything of them is loaded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heal_tasks.core.errors import InputError

_PLACES = ("*config*.json", "modules.json")
_CURE = (
    "code of a model is never run here. Choose a model of an architecture that transformers has, or save this one "
    "in such a form (docs/models.md says how)"
)


def refuse_own_code(folder: str | Path, model: str | None = None) -> None:
    """Raise InputError for a model that cannot be loaded as it was made without running code that is not installed.

    That is code of the model's authors (``auto_map``), or a part whose class is none of sentence-transformers' or
    torch's.

    Args:
        folder: with the model's files.
        model: its name; None: the folder.
    """
    for pattern in _PLACES:
        for file in sorted(Path(folder).rglob(pattern)):
            try:
                config = json.loads(file.read_text("utf-8"))
            except (OSError, ValueError):
                continue  # whoever loads it says what is wrong
            if code := next(_own_code(file.name, config), ""):
                raise InputError(f"{model or folder} asks for its own code ({code} in {file.name}); {_CURE}")


def _own_code(name: str, config: Any) -> Iterator[str]:
    """The code that a configuration asks for and that is not installed."""
    parts = config if isinstance(config, list) else [config]
    for part in parts:
        if not isinstance(part, dict):
            continue
        if part.get("auto_map"):
            yield f"auto_map {json.dumps(part['auto_map'])}"
        types = [part.get("type")] if name == "modules.json" else list(_values(part.get("types")))
        for kind in types:
            if isinstance(kind, str) and not kind.startswith("sentence_transformers."):
                yield f"class {kind!r}"
        activation = part.get("activation_function")
        if isinstance(activation, str) and "." in activation and not activation.startswith("torch."):
            yield f"class {activation!r}"


def _values(types: Any) -> Iterator[Any]:
    if isinstance(types, dict):
        yield from types.values()
