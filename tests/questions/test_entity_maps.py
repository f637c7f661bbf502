"""Entity maps: grounding drops what the text does not say."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.questions.maps.entity_maps import EntityMap, MapAttribute, MapEntity, MapRelation, ground
from tests.questions.maps import TEXTS, entity_maps, stands_in


def one(name: str, kind: str = "other", *attributes: tuple[str, str]) -> EntityMap:
    facts = tuple(MapAttribute(*attribute) for attribute in attributes)
    return EntityMap((MapEntity("e1", kind, name, facts),), ())  # type: ignore[arg-type]


# The check against the text.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Acme Ltd", "… of ACME\n  LTD, which"),
        ("Acme", "Acme’s offices"),
        ("Acme", "Acme™ pumps, see Acme¹"),
        ("the Tenant", "(the “Tenant”)"),
        ('the "Tenant"', "the ‘Tenant’"),
        ("O'Brien", "Mr O’Brien"),
        ("Amélie", "Ame\u0301lie"),
        ("office", "the o\ufb03ce"),
        ("Blue-Sky", "Blue‑Sky"),
        ("Bluesky", "Blue\u00adsky"),
        ("Acme 5", "\uff21\uff23\uff2d\uff25\u3000\uff15"),
        ("naïve", "**naïve**"),
        ("1,000", "about 1000 people"),
        ("1000", "about 1,000 people"),
        ("1000", "about 1\u202f000 people"),
        ("£1,250,000.00", "sold for £ 1250000"),
        ("20", "20.00 EUR"),
        ("5%", "5 % of it"),
        ("5 %", "(5%)"),
        ("4.2", "version 4.2."),
        ("田中", "田中は東京"),
        ("서울", "서울에서"),
    ],
)
def test_found_however_it_is_written(name: str, text: str) -> None:
    kept, dropped = ground(one(name), text)
    assert (len(kept.entities), sum(dropped.values())) == (1, 0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Acme", "Acmeville"),
        ("ville", "Acmeville"),
        ("000", "about 1,000 people"),
        ("1", "about 1,000 people"),
        ("3", "3.5 kg"),
        ("5", "3.5 kg"),
        ("Section 4", "Section 4.2"),
        ("Python 3.1", "Python 3.10"),
        ("1000", "10000"),
        ("1,000", "1,001"),
        ("10.5", "105"),
        ("12.03.2024", "12032024"),
        ("£5", "£5m"),
        ("-", "a - b"),
        (" ", "a b"),
        ("?", "who?"),
    ],
)
def test_not_found(name: str, text: str) -> None:
    kept, dropped = ground(one(name), text)
    assert (kept.entities, list(dropped.values())) == ((), [1])


def test_a_date_is_verbatim() -> None:
    assert ground(one("in 2024", "other"), "in 2,024")[0].entities
    assert not ground(one("in 2024", "date"), "in 2,024")[0].entities
    assert ground(one("in 2024", "date"), "In  2024.")[0].entities


def test_counts_by_reason() -> None:
    found = EntityMap(
        (
            MapEntity("a", "person", "Ada", tuple(MapAttribute(*pair) for pair in [
                ("age", "36"), ("age", "?"), ("", "London"), ("the quite long list of words", "London"),
                ("number 7", "London"), ("born in", "London"), ("born in", "Paris"),
            ])),
            MapEntity("b", "person", "Bob", (MapAttribute("age", "36"), MapAttribute("age", "37"))),
            MapEntity("c", "other", "?", ()),
            MapEntity("d", "place", "London", ()),
        ),
        (
            MapRelation("a", "lives in", "d"), MapRelation("a", "pays 900 to", "d"), MapRelation("a", "knows", "b"),
            MapRelation("c", "is", "a"),
        ),
    )  # fmt: skip
    kept, dropped = ground(found, "Ada, 36, lives in London.")
    assert dropped == Counter(name=2, label=4, value=2, orphan=4)
    assert [(entity.id, len(entity.attributes)) for entity in kept.entities] == [("a", 2), ("d", 0)]
    assert kept.relations == (MapRelation("a", "lives in", "d"),)


def test_entities_are_in_the_order_of_the_text() -> None:
    found = EntityMap(tuple(MapEntity(name, "other", name, ()) for name in ("Acme", "Bob", "Ada", "bob")), ())
    kept, _ = ground(found, "Ada and Bob of Acme")
    assert [entity.id for entity in kept.entities] == ["Ada", "Bob", "bob", "Acme"]


@given(entity_maps(), TEXTS)
def test_whatever_is_kept_is_grounded(found: EntityMap, text: str) -> None:
    kept, dropped = ground(found, text)
    ids = {entity.id for entity in kept.entities}
    for value in [entity.name for entity in kept.entities] + [
        fact.value for entity in kept.entities for fact in entity.attributes
    ]:
        assert stands_in(value, text)
    assert all(relation.source in ids and relation.target in ids for relation in kept.relations)

    def total(each: EntityMap) -> int:
        return sum(1 + len(entity.attributes) for entity in each.entities) + len(each.relations)

    assert total(found) == total(kept) + dropped.total()


@given(entity_maps(), TEXTS)
def test_grounding_twice_changes_nothing(found: EntityMap, text: str) -> None:
    kept, _ = ground(found, text)
    assert ground(kept, text) == (kept, Counter())


@given(entity_maps(), TEXTS, TEXTS, st.booleans())
def test_more_text_never_drops_more(found: EntityMap, text: str, more: str, before: bool) -> None:
    kept, dropped = ground(found, text)
    longer, fewer = ground(found, f"{more} {text}" if before else f"{text} {more}")
    grown = {entity.id: set(entity.attributes) for entity in longer.entities}
    assert all(set(entity.attributes) <= grown[entity.id] for entity in kept.entities)
    assert not Counter(kept.relations) - Counter(longer.relations)
    assert fewer.total() <= dropped.total()
