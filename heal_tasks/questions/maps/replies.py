"""Parses the JSON form of entity maps, as a model sends it or the store keeps it."""

from itertools import islice

from pydantic import TypeAdapter

from heal_tasks.core.errors import InputError
from heal_tasks.core.types import JsonObject
from heal_tasks.questions.llm.replies import parse_object
from heal_tasks.questions.maps.entity_maps import MAX_ENTITIES, MAX_RELATIONS, EntityMap

_ADAPTER = TypeAdapter(EntityMap)


def map_schema() -> JsonObject:
    """The JSON schema of an entity map, with all fields required and none additional."""
    return _ADAPTER.json_schema()


def parse_map(raw: str) -> EntityMap:
    """Find the requested JSON in a model's text.

    Args:
        raw: JSON, possibly inside a Markdown fence, after a reasoning block or between sentences.

    Returns:
        Its first 40 entities and 60 of the relations between them, in the reply's order, with blanks collapsed;
        not yet checked against the text. Relations with an unknown end are dropped.

    Raises:
        InputError: there is none, or two entities have the same id; the message names the first thing that is wrong and
            quotes nothing of the reply, so that it can be sent back as an instruction.
    """
    return parse_object(raw, _as_map)


def _as_map(value: object) -> EntityMap:
    found = _ADAPTER.validate_python(value)
    entities = found.entities[:MAX_ENTITIES]
    known = {entity.id for entity in entities}
    if len(known) < len(entities):
        raise InputError("entities: an id is used twice, give each entity its own")
    connected = (relation for relation in found.relations if {relation.source, relation.target} <= known)
    return EntityMap(entities, tuple(islice(connected, MAX_RELATIONS)))
