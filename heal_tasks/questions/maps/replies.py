"""The JSON form of entity maps, in which models send them and the store keeps them, and its parser."""

from itertools import islice
from typing import Annotated, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict

from heal_tasks.core.errors import InputError
from heal_tasks.questions.llm.replies import parse_object, tidy
from heal_tasks.questions.maps.entity_maps import (
    MAX_ENTITIES,
    MAX_RELATIONS,
    EntityMap,
    EntityType,
    MapAttribute,
    MapEntity,
    MapRelation,
)

# Models may send numbers as JSON numbers; whether the text contains them is checked later.
_STRICT = ConfigDict(json_schema_extra={"additionalProperties": False}, coerce_numbers_to_str=True)


class AttributeReply(BaseModel):
    """One fact about an entity."""

    model_config = _STRICT

    key: str
    value: str


def _known_type(value: object) -> object:
    return value if value in get_args(EntityType) else "other"


class EntityReply(BaseModel):
    """One entity. An unknown type becomes "other": asking again would cost more than it is worth."""

    model_config = _STRICT

    id: str
    type: Annotated[EntityType, BeforeValidator(_known_type)]
    name: str
    attributes: list[AttributeReply]


class RelationReply(BaseModel):
    """One relation between two entities."""

    model_config = _STRICT

    source: str
    predicate: str
    target: str


class MapReply(BaseModel):
    """The whole reply. Extra keys are forbidden in the schema, and ignored where they come anyway."""

    model_config = _STRICT

    entities: list[EntityReply]
    relations: list[RelationReply]


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
    return parse_object(raw, lambda value: _as_map(MapReply.model_validate(value)))


def _as_map(reply: MapReply) -> EntityMap:
    entities = tuple(_as_entity(entity) for entity in reply.entities[:MAX_ENTITIES])
    known = {entity.id for entity in entities}
    if len(known) < len(entities):
        raise InputError("entities: an id is used twice, give each entity its own")
    relations = (
        MapRelation(tidy(relation.source), tidy(relation.predicate), tidy(relation.target))
        for relation in reply.relations
    )
    connected = (relation for relation in relations if relation.source in known and relation.target in known)
    return EntityMap(entities, tuple(islice(connected, MAX_RELATIONS)))


def _as_entity(entity: EntityReply) -> MapEntity:
    attributes = tuple(MapAttribute(tidy(attribute.key), tidy(attribute.value)) for attribute in entity.attributes)
    return MapEntity(tidy(entity.id), entity.type, tidy(entity.name), attributes)
