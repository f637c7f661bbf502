"""Renders an entity map as the compact text that an encoder is trained on, and checks that text's length.

APEX-Embedding (Aviss 2024, arXiv 2410.18105) trains on maps of documents and queries and reports inputs shorter by
37.71 % on average. The rendering and the limits here are ours.
"""

from typing import Literal

from heal_tasks.questions.extractive.words import content_words, words
from heal_tasks.questions.maps.entity_maps import EntityMap, MapEntity, folded, ground

PUBLISHED_REDUCTION = 0.3771

_SHORTEST = 0.15
_LEAST_KEPT = 0.5


def render(entity_map: EntityMap) -> str:
    """Write a map as text, one line per entity: ``type: name | key value; predicate name``.

    Ids, JSON, names of relations' sources, the type "other" and lines of entities that are only targets are left out,
    because they cost word pieces. Eight maps of ATT&CK techniques and abstracts are 22 % shorter than their texts this
    way; with all lines and types, ``=`` and ``->`` they were 1 % shorter, half of them longer.

    Entities keep their order; those of the same type and name are merged: attributes in alphabetical order, then
    relations in the order of their targets, none of an entity with itself. The result does not depend on ids and on the
    order of attributes and relations. ``|`` and ``;`` in names and facts are replaced.
    """
    merged: dict[tuple[str, str], list[MapEntity]] = {}
    for entity in entity_map.entities:
        merged.setdefault((folded(_safe(entity.name)), entity.type), []).append(entity)
    place = {entity.id: place for place, same in enumerate(merged.values()) for entity in same}
    names = [min(_safe(entity.name) for entity in same) for same in merged.values()]
    # Equal facts are merged; of their spellings the first in alphabetical order is used.
    facts: list[dict[tuple[int, str, str], str]] = [{} for _ in names]
    for entity in entity_map.entities:
        for attribute in entity.attributes:
            key, value = _safe(attribute.key), _safe(attribute.value)
            _unite(facts[place[entity.id]], (-1, folded(key), folded(value)), f"{key} {value}")
    targets = set[int]()
    for relation in entity_map.relations:
        source, target, predicate = place[relation.source], place[relation.target], _safe(relation.predicate)
        if source != target:
            _unite(facts[source], (target, folded(predicate), ""), f"{predicate} {names[target]}")
            targets.add(target)
    lines = []
    for at, ((_, kind), name, known) in enumerate(zip(merged, names, facts, strict=True)):
        head = name if kind == "other" else f"{kind}: {name}"
        if known:
            lines.append(f"{head} | {'; '.join(known[same] for same in sorted(known))}")
        elif at not in targets:
            lines.append(head)
    return "\n".join(lines)


def fit(map_tokens: int, text_tokens: int, rendered: str) -> Literal["ok", "empty", "long", "short"]:
    """Check whether a map can replace its text: ok, empty, long (nothing is gained) or short (facts are missing)."""
    if not rendered:
        return "empty"
    if map_tokens > text_tokens:
        return "long"
    return "short" if map_tokens < _SHORTEST * text_tokens else "ok"


def query_view(entity_map: EntityMap, query: str) -> str:
    """Render the part of a chunk's map that a query mentions, as the query's map in training.

    The language model is not asked for maps of queries: its replies would be three times as long as the queries, which
    name entities that the chunk's map contains. Facts that the query does not mention would give away the answer. The
    rendering is empty where it would lose more than half of the query's content words.
    """
    rendered = render(ground(entity_map, query)[0])
    asked, kept = set(content_words(query)), set(words(rendered))
    return rendered if asked and len(asked & kept) >= _LEAST_KEPT * len(asked) else ""


def _unite(facts: dict[tuple[int, str, str], str], same: tuple[int, str, str], written: str) -> None:
    facts[same] = min(written, facts.get(same, written))


def _safe(text: str) -> str:
    return " ".join(text.replace("|", "/").replace(";", ",").split())
