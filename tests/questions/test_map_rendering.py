"""Rendering of entity maps, and of the part of a map that a query mentions."""

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.questions.maps.entity_maps import EntityMap, MapAttribute, MapEntity, MapRelation, folded, ground
from heal_tasks.questions.maps.map_prompt import parse_map
from heal_tasks.questions.maps.rendering import fit, query_view, render
from tests.questions.maps import LEASE, REPLY, TEXTS, entity_maps, stands_in

RENDERED = """\
document: Lease | term ten years; dates from 14 March 2021
organisation: Brookfield Estates Ltd | number 07731902; lets 27 Quay Street, Bristol
person: Dr. Amélie Fontaine | pays £48000
amount: £48000 | due quarterly instalments
amount: 4% | above base rate
organisation: Barclays Bank | sets 4%
clause: clause 8.2 | notice six months'; ends on 31 March 2026"""


def count_tokens(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def test_a_lease_becomes_its_facts() -> None:
    kept, dropped = ground(parse_map(json.dumps(REPLY)), LEASE)
    assert render(kept) == RENDERED
    assert dropped == Counter(name=2, value=1, orphan=3)
    assert 0.4 < count_tokens(RENDERED) / count_tokens(LEASE) < 0.9
    assert parse_map(json.dumps(asdict(kept))) == kept


@given(entity_maps(), TEXTS, st.randoms(use_true_random=False))
def test_rendering_does_not_depend_on_ids_and_order(found: EntityMap, text: str, random: object) -> None:
    text = f"{text} {' '.join(entity.name for entity in found.entities)}"
    names = [f"x{n}" for n in range(len(found.entities))]
    random.shuffle(names)  # type: ignore[attr-defined]
    new = {entity.id: name for entity, name in zip(found.entities, names, strict=True)}
    entities = [
        replace(entity, id=new[entity.id], attributes=tuple(reversed(entity.attributes))) for entity in found.entities
    ]
    relations = [MapRelation(new[each.source], each.predicate, new[each.target]) for each in found.relations]
    random.shuffle(entities)  # type: ignore[attr-defined]
    random.shuffle(relations)  # type: ignore[attr-defined]
    shuffled = EntityMap(tuple(entities), tuple(relations))
    assert render(ground(shuffled, text)[0]) == render(ground(found, text)[0])


@given(entity_maps())
def test_every_entity_and_fact_is_rendered_once(found: EntityMap) -> None:
    lines = render(found).split("\n") if found.entities else []
    heads, tails = [line.partition(" | ")[0] for line in lines], [line.partition(" | ")[2] for line in lines]
    assert len(set(heads)) == len(heads)
    assert not any(set("|;") & set(head) for head in heads)
    facts = [fact for tail in tails if tail for fact in tail.split("; ")]
    assert all(fact and not set("|;") & set(fact) for fact in facts)
    for entity in found.entities:
        name = folded(entity.name.replace("|", "/").replace(";", ","))
        assert any(name in folded(part) for part in (*heads, *facts))


def test_duplicates_are_merged() -> None:
    facts = (MapAttribute("age", "36"), MapAttribute("Age", "36"), MapAttribute("town", "Bath"))
    entities = (
        MapEntity("a", "person", "Ada", facts[:1]),
        MapEntity("b", "person", "ADA", facts[1:]),
        MapEntity("c", "place", "Ada", ()),
        MapEntity("d", "place", "Bath", ()),
    )
    relations = (
        MapRelation("a", "lives in", "d"),
        MapRelation("b", "Lives in", "d"),
        MapRelation("a", "is", "b"),
        MapRelation("c", "is", "b"),
    )
    expected = "person: ADA | Age 36; town Bath; Lives in Bath\nplace: Ada | is ADA"
    for order in permutations(entities):
        kept, _ = ground(EntityMap(order, relations[::-1]), "In Bath lived Ada, 36.")
        assert render(kept) == expected


def test_separators_in_names_are_made_safe() -> None:
    entities = (
        MapEntity("a", "other", "x | y; z\n->>w", (MapAttribute("k=1", "u=v; w|x"),)),
        MapEntity("b", "date", "-", ()),
    )
    found = EntityMap(entities, (MapRelation("a", "-->", "b"),))
    assert render(found) == "x / y, z ->>w | k=1 u=v, w/x; --> -"


def test_an_empty_map_is_empty() -> None:
    assert render(EntityMap((), ())) == ""


@pytest.mark.parametrize(
    ("map_tokens", "found"), [(0, "short"), (14, "short"), (15, "ok"), (62, "ok"), (100, "ok"), (101, "long")]
)
def test_maps_of_the_wrong_length_are_refused(map_tokens: int, found: str) -> None:
    assert fit(map_tokens, 100, "a: b") == found
    assert fit(map_tokens, 100, "") == "empty"


# The part of a map that a query is about.


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (
            "brookfield estates ltd: what did it let at 27 Quay Street, Bristol?",
            "organisation: Brookfield Estates Ltd | lets 27 Quay Street, Bristol",
        ),
        ("Is £48,000 payable in quarterly instalments?", "amount: £48000 | due quarterly instalments"),
        ("clause 8.2 six months' notice", "clause: clause 8.2 | notice six months'"),
        ("What does clause 8.2 say?", "clause: clause 8.2"),
        ("Which yearly rent does the tenant of this lease owe to his landlord?", ""),
        ("clause 8", ""),
        ("", ""),
        ("what is it?", ""),
    ],
)
def test_a_querys_view_renders_what_it_mentions(query: str, shown: str) -> None:
    kept, _ = ground(parse_map(json.dumps(REPLY)), LEASE)
    assert query_view(kept, query) == shown


@given(entity_maps(), TEXTS, TEXTS)
def test_a_querys_view_holds_nothing_that_the_query_does_not_name(found: EntityMap, text: str, query: str) -> None:
    kept, _ = ground(found, text)
    shown = query_view(kept, query)
    for line in shown.split("\n") if shown else []:
        assert stands_in(re.sub("^(person|date): ", "", line).partition(" | ")[0], query)
