"""Finds an entity map in what a model sends back, however loosely it keeps to the format."""

import json
import re
from collections.abc import Iterator
from itertools import islice

from pydantic import ValidationError

from heal_tasks.core.errors import InputError
from heal_tasks.questions.entity_maps import (
    MAX_ENTITIES,
    MAX_RELATIONS,
    EntityMap,
    MapAttribute,
    MapEntity,
    MapRelation,
)
from heal_tasks.questions.map_prompts import EntityReply, MapReply
from heal_tasks.questions.writer import storable

_REASONING = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_MOST_OPENINGS = 50


def parse_map(raw: str) -> EntityMap:
    """Find the asked-for JSON in a model's text.

    Args:
        raw: JSON, possibly inside a Markdown fence, after a reasoning block or between sentences.

    Returns:
        Its first 40 entities and 60 of the relations between them, in the reply's order, with blanks collapsed;
        not yet checked against the text. Relations with an unknown end are dropped.

    Raises:
        InputError: there is none, or an id stands for two entities; the message names the first thing that is wrong
            and quotes nothing of the reply, so that it can be sent back as an instruction.
    """
    problem = ""
    for value in _json_objects(_REASONING.sub("", raw)):
        try:
            return _as_map(MapReply.model_validate(value))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            problem = problem or f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        except InputError as error:
            problem = problem or str(error)
    raise InputError(problem or "it holds no complete JSON object")


def _as_map(reply: MapReply) -> EntityMap:
    entities = tuple(_as_entity(entity) for entity in reply.entities[:MAX_ENTITIES])
    known = {entity.id for entity in entities}
    if len(known) < len(entities):
        raise InputError("entities: an id is used twice, give each entity its own")
    relations = (
        MapRelation(_tidy(relation.source), _tidy(relation.predicate), _tidy(relation.target))
        for relation in reply.relations
    )
    connected = (relation for relation in relations if relation.source in known and relation.target in known)
    return EntityMap(entities, tuple(islice(connected, MAX_RELATIONS)))


def _as_entity(entity: EntityReply) -> MapEntity:
    attributes = tuple(MapAttribute(_tidy(attribute.key), _tidy(attribute.value)) for attribute in entity.attributes)
    return MapEntity(_tidy(entity.id), entity.type, _tidy(entity.name), attributes)


def _json_objects(text: str) -> Iterator[object]:
    decoder, end = json.JSONDecoder(), 0
    for _ in range(_MOST_OPENINGS):
        if (opening := text.find("{", end)) < 0:
            return
        try:
            value, end = decoder.raw_decode(text, opening)
        except (ValueError, RecursionError):
            end = opening + 1
            continue
        yield value


def _tidy(text: str) -> str:
    return " ".join(storable(text).split())
