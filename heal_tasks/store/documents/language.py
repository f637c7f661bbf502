"""Text search configurations of documents: the language whose stems their words are reduced to."""

from collections.abc import Mapping
from typing import Any

CONFIGURATIONS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch",
    "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish",
    "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
"""PostgreSQL's own configurations by ISO 639-1 code."""


def text_language(metadata: Mapping[str, Any], default: str) -> str:
    """The text search configuration that a document's metadata name, by name or by a code such as ``de-AT``.

    It is ``simple`` (no stemming) for a code that PostgreSQL has no configuration for.
    """
    named = metadata.get("language") or metadata.get("lang")
    if not isinstance(named, str):
        return default
    code = named.strip().lower()
    known = CONFIGURATIONS.get(code.replace("_", "-").split("-")[0])
    return known or (code if len(code) > 3 and code.isalpha() else "simple")
