"""An entity map as the compact text that an encoder is trained on, and whether that text is worth training on.

APEX-Embedding (Aviss 2024, arXiv 2410.18105) trains on maps of documents and queries and reports inputs shorter by
37.71 % on average. The rendering and the limits here are ours.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from heal_tasks.core.types import TokenCounter
from heal_tasks.questions.entity_maps import EntityMap, MapEntity, folded

PUBLISHED_REDUCTION = 0.3771

MapRefusal = Literal["long", "short"]


@dataclass(frozen=True, slots=True)
class MapSize:
    """How long a map is beside its text, and what follows.

    Args:
        map_tokens: tokens of the rendered map.
        text_tokens: tokens of the text.
        refusal: long (longer than the text: nothing is gained) or short (facts are missing); None if it can be used.
    """

    map_tokens: int
    text_tokens: int
    refusal: MapRefusal | None

    @property
    def ratio(self) -> float:
        """Tokens of the map per token of the text, infinite for an empty text; about .62 on average in the paper."""
        return self.map_tokens / self.text_tokens if self.text_tokens else math.inf


def render(entity_map: EntityMap) -> str:
    """Write a map as text: one line per entity, then one per relation.

    ``type: name | key=value; key=value`` and ``name -> predicate -> name``, without ids and without JSON's
    punctuation, which costs word pieces. The order of the map's lists and its ids do not matter.

    Args:
        entity_map: grounded, so that entities stand in the order of their first occurrence in the text.

    Returns:
        The lines. Entities of the same type and name are one, with the attributes of all; attributes are sorted;
        relations follow the order of their ends; what is left to relate an entity to itself is left out. ``|``,
        ``;``, ``->`` and, in keys, ``=`` are replaced, so that a line means one thing.
    """
    merged: dict[tuple[str, str], list[MapEntity]] = {}
    for entity in entity_map.entities:
        merged.setdefault((folded(_safe(entity.name)), entity.type), []).append(entity)
    ranked = sorted(merged, key=lambda key: (min(entity.place for entity in merged[key]), key))
    names = [min(_safe(entity.name) for entity in merged[key]) for key in ranked]
    rank = {entity.id: place for place, key in enumerate(ranked) for entity in merged[key]}
    lines = [
        f"{kind}: {name}{_attributes(merged[folded_name, kind])}"
        for (folded_name, kind), name in zip(ranked, names, strict=True)
    ]
    relations: dict[tuple[int, int, str], str] = {}
    for relation in entity_map.relations:
        source, target, predicate = rank[relation.source], rank[relation.target], _safe(relation.predicate)
        if source != target:
            key = (source, target, folded(predicate))
            relations[key] = min(predicate, relations.get(key, predicate))
    lines += [
        f"{names[source]} -> {predicate} -> {names[target]}"
        for (source, target, _), predicate in sorted(relations.items())
    ]
    return "\n".join(lines)


def acceptable(
    rendered: str, text: str, count_tokens: TokenCounter, *, shortest: float = 0.15, longest: float = 1.0
) -> MapSize:
    """Measure a rendered map against its text and say whether it can stand in for it.

    Args:
        rendered: the map as text.
        text: the text that it would replace, as the encoder would get it.
        count_tokens: the encoder's count.
        shortest: least ratio of tokens; below it the map says too little.
        longest: greatest ratio of tokens; above it the map is no shorter view.

    Returns:
        Both lengths, and why the map is refused if it is.
    """
    map_tokens, text_tokens = count_tokens(rendered), count_tokens(text)
    ratio = MapSize(map_tokens, text_tokens, None).ratio
    refusal: MapRefusal | None = "long" if ratio > longest else "short" if ratio < shortest else None
    return MapSize(map_tokens, text_tokens, refusal)


def mean_reduction(sizes: Iterable[MapSize]) -> float:
    """How much shorter the maps in use are than their texts, to be held against PUBLISHED_REDUCTION.

    Args:
        sizes: one per map; refused ones are left out, because their texts stay as they are.

    Returns:
        Mean over maps of 1 - ratio; 0 where none is in use.
    """
    ratios = [size.ratio for size in sizes if size.refusal is None]
    return 1 - sum(ratios) / len(ratios) if ratios else 0.0


def _attributes(entities: list[MapEntity]) -> str:
    united: dict[tuple[str, str], str] = {}
    for attribute in (attribute for entity in entities for attribute in entity.attributes):
        key, value = " ".join(_safe(attribute.key).replace("=", " ").split()), _safe(attribute.value)
        same = (folded(key), folded(value))
        united[same] = min(f"{key}={value}", united.get(same, f"{key}={value}"))
    return " | " + "; ".join(united[same] for same in sorted(united)) if united else ""


def _safe(text: str) -> str:
    return " ".join(re.sub("-+>+", "-", text.replace("|", "/").replace(";", ",")).split())
