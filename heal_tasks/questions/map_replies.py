"""Finds an entity map in what a model sends back, however loosely it keeps to the format."""

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
from heal_tasks.questions.replies import NO_JSON, first_problem, json_values, tidy


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
    for value in json_values(raw):
        if not isinstance(value, dict):
            continue
        try:
            return _as_map(MapReply.model_validate(value))
        except ValidationError as error:
            problem = problem or first_problem(error)
        except InputError as error:
            problem = problem or str(error)
    raise InputError(problem or NO_JSON)


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
