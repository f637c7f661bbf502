"""The text of an adopted row as its application gave it to the model."""

import json
from collections.abc import Mapping
from typing import Any

LLAMA_INDEX = "llama-index"
"""The preset whose application embeds metadata before the text."""


def embedded_text(preset: str, text: str, metadata: Mapping[str, Any]) -> str:
    """The text that a row's vector was made of: with LlamaIndex the node's metadata come first (MetadataMode.EMBED).

    LangChain, Haystack and pgai embed the text alone, unless they are told otherwise.
    """
    if preset != LLAMA_INDEX:
        return text
    try:
        node = json.loads(metadata["_node_content"])
        excluded = {*node.get("excluded_embed_metadata_keys", ())}
        template = node.get("metadata_template", "{key}: {value}")
        lines = [
            template.replace("{key}", str(key)).replace("{value}", str(value))
            for key, value in node.get("metadata", {}).items()
            if key not in excluded
        ]
        # The client writes the separator's name in its old spelling.
        before = node.get("metadata_seperator", node.get("metadata_separator", "\n")).join(lines).strip()
        whole = str(node.get("text_template", "{metadata_str}\n\n{content}"))
    except (KeyError, ValueError, TypeError, AttributeError):
        return text  # not a node of this client
    return whole.replace("{metadata_str}", before).replace("{content}", text).strip() if before else text
