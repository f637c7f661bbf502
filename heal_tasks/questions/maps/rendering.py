"""An entity map as the compact text that an encoder is trained on, and whether that text is worth training on.

APEX-Embedding (Aviss 2024, arXiv 2410.18105) trains on maps of documents and queries and reports inputs shorter by
37.71 % on average. The rendering and the limits here are ours.
"""

from typing import Literal

from heal_tasks.questions.extractive.words import content_words, words
from heal_tasks.questions.maps.entity_maps import EntityMap, MapEntity, folded, ground

PUBLISHED_REDUCTION = 0.3771

MapFit = Literal["ok", "empty", "long", "short"]

_LONGEST = 1.0
_SHORTEST = 0.15
_LEAST_KEPT = 0.5


def render(entity_map: EntityMap) -> str:
    """Write a map as text, one line per entity: ``type: name | key value; predicate name``.

    No ids, no JSON, no name of a relation's source, no type that says nothing ("other") and no line for an entity of
    which nothing is told but that it is another one's target: all of them cost word pieces. Eight maps of ATT&CK
    techniques and abstracts, written to the step's own prompt, are 22 % shorter than their texts like this. With all
    lines and types, ``=`` and ``->`` it was 1 %, and half of the maps were longer than their texts.

    Args:
        entity_map: grounded, so that entities stand in the order in which the text names them.

    Returns:
        The lines. Entities of the same type and name are one, with the facts of all: attributes in alphabetical
        order, then relations in the order of their targets. What is left to relate an entity to itself is left out.
        The ids and the order of attributes and relations do not matter. ``|`` and ``;`` in names and facts are
        replaced, so that they separate.
    """
    merged: dict[tuple[str, str], list[MapEntity]] = {}
    for entity in entity_map.entities:
        merged.setdefault((folded(_safe(entity.name)), entity.type), []).append(entity)
    place = {entity.id: place for place, same in enumerate(merged.values()) for entity in same}
    names = [min(_safe(entity.name) for entity in same) for same in merged.values()]
    # By what makes two facts the same fact; of its writings the first in alphabetical order stands.
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


def fit(map_tokens: int, text_tokens: int, rendered: str) -> MapFit:
    """Whether a map can stand in for its text.

    Args:
        map_tokens: tokens of the rendered map.
        text_tokens: tokens of the text that it would replace.
        rendered: the map.

    Returns:
        ok, empty, long (longer than the text: nothing is gained) or short (below 15 % of it: facts are missing).
    """
    if not rendered:
        return "empty"
    if map_tokens > _LONGEST * text_tokens:
        return "long"
    return "short" if map_tokens < _SHORTEST * text_tokens else "ok"


def query_view(entity_map: EntityMap, query: str) -> str:
    """What of a chunk's map a query mentions, rendered: the query as training shows it in the maps' form.

    No map is asked for a query. The reply about one is about three times as long as the query, and a query names
    entities that its chunk's map has already. Nothing of the map gets in that the query does not say, or the training
    would give away answers.

    Args:
        entity_map: of the chunk that answers the query.
        query: its text.

    Returns:
        The rendering; empty where it would lose more than half of the query's words that carry meaning, so that the
        query is better shown as it is.
    """
    rendered = render(ground(entity_map, query)[0])
    asked, kept = set(content_words(query)), set(words(rendered))
    return rendered if asked and len(asked & kept) >= _LEAST_KEPT * len(asked) else ""


def _unite(facts: dict[tuple[int, str, str], str], same: tuple[int, str, str], written: str) -> None:
    facts[same] = min(written, facts.get(same, written))


def _safe(text: str) -> str:
    return " ".join(text.replace("|", "/").replace(";", ",").split())
