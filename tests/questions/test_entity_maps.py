"""Entity maps: what is believed of a reply, and what an encoder gets to see of it."""

import json
import re
import unicodedata
from collections import Counter
from dataclasses import asdict, replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.questions.entity_maps import EntityMap, MapAttribute, MapEntity, MapRelation, folded, ground
from heal_tasks.questions.map_rendering import fit, query_view, render
from heal_tasks.questions.map_replies import parse_map

LEASE = """\
LEASE SUMMARY. This Lease is made on 14 March 2021 between Brookfield Estates Ltd (the “Landlord”), a company \
incorporated in England under number 07731902, and Dr. Amélie Fontaine (the “Tenant”). The Landlord lets to the Tenant \
the second floor of 27 Quay Street, Bristol, for a term of ten years from 1 April 2021. The Tenant shall pay a yearly \
rent of £48,000, exclusive of VAT, by equal quarterly instalments in advance, the first of which falls due on \
1 April 2021. If any instalment is more than 14 days late, interest at 4 % above the base rate of Barclays Bank runs \
from the due date until payment. Under clause 8.2 the Tenant may end this Lease on 31 March 2026 by giving the \
Landlord not less than six months’ written notice."""

REPLY = {
    "entities": [
        {
            "id": "r",
            "type": "amount",
            "name": "£48000",
            "attributes": [{"key": "due", "value": "quarterly instalments"}],
        },
        {"id": "l", "type": "document", "name": "Lease", "attributes": [{"key": "term", "value": "ten years"}]},
        {"id": "d", "type": "date", "name": "14 March 2021", "attributes": []},
        {
            "id": "o",
            "type": "organisation",
            "name": "Brookfield Estates Ltd",
            "attributes": [{"key": "number", "value": "07731902"}, {"key": "founded", "value": "1999"}],
        },
        {"id": "t", "type": "person", "name": "Dr. Amélie Fontaine", "attributes": []},
        {"id": "p", "type": "place", "name": "27 Quay Street, Bristol", "attributes": []},
        {"id": "i", "type": "amount", "name": "4%", "attributes": [{"key": "above", "value": "base rate"}]},
        {"id": "b", "type": "organisation", "name": "Barclays Bank", "attributes": []},
        {"id": "c", "type": "clause", "name": "clause 8.2", "attributes": [{"key": "notice", "value": "six months'"}]},
        {"id": "e", "type": "date", "name": "31 March 2026", "attributes": []},
        {"id": "x", "type": "person", "name": "John Smith", "attributes": [{"key": "role", "value": "Tenant"}]},
        {"id": "y", "type": "date", "name": "1 April 2031", "attributes": []},
    ],
    "relations": [
        {"source": "o", "predicate": "lets", "target": "p"},
        {"source": "t", "predicate": "pays", "target": "r"},
        {"source": "b", "predicate": "sets", "target": "i"},
        {"source": "c", "predicate": "ends on", "target": "e"},
        {"source": "l", "predicate": "dates from", "target": "d"},
        {"source": "x", "predicate": "knows", "target": "t"},
        {"source": "l", "predicate": "ends on", "target": "y"},
        {"source": "l", "predicate": "mentions", "target": "nobody"},
    ],
}

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


def one(name: str, kind: str = "other", *attributes: tuple[str, str]) -> EntityMap:
    facts = tuple(MapAttribute(*attribute) for attribute in attributes)
    return EntityMap((MapEntity("e1", kind, name, facts),), ())  # type: ignore[arg-type]


def test_a_lease_becomes_its_facts() -> None:
    kept, dropped = ground(parse_map(json.dumps(REPLY)), LEASE)
    assert render(kept) == RENDERED
    assert dropped == Counter(name=2, value=1, orphan=3)
    assert 0.4 < count_tokens(RENDERED) / count_tokens(LEASE) < 0.9
    assert parse_map(json.dumps(asdict(kept))) == kept


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
            MapEntity("c", "other", "?"),
            MapEntity("d", "place", "London"),
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


def test_entities_stand_as_the_text_names_them() -> None:
    found = EntityMap(tuple(MapEntity(name, "other", name) for name in ("Acme", "Bob", "Ada", "bob")), ())
    kept, _ = ground(found, "Ada and Bob of Acme")
    assert [entity.id for entity in kept.entities] == ["Ada", "Bob", "bob", "Acme"]


WORDS = [
    "Ada",
    "ada",
    "Acme",
    "Acme Ltd",
    "1,000",
    "1000",
    "1 000",
    "5 %",
    "5%",
    "3.5",
    "3",
    "£9",
    "O'Neil",
    "日本",
    "—",
]
NAMES = st.one_of(st.sampled_from([*WORDS, "?", "Eve", "7", "|;->="]), st.text(max_size=6))
TEXTS = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), max_size=8).flatmap(
    lambda words: st.sampled_from([" ", ", ", "\n"]).map(lambda blank: blank.join(words))
)


@st.composite
def entity_maps(draw: st.DrawFn) -> EntityMap:
    types = st.sampled_from(["person", "date", "other"])
    attributes = st.lists(st.builds(MapAttribute, st.sampled_from(["k", "K", "a=b", "n 7"]), NAMES), max_size=3)
    entities = tuple(
        MapEntity(f"e{n}", draw(types), draw(NAMES), tuple(draw(attributes)))
        for n in range(draw(st.integers(0, 5)))
    )  # fmt: skip
    if not entities:
        return EntityMap((), ())
    ids = st.sampled_from([entity.id for entity in entities])
    relations = st.lists(
        st.builds(MapRelation, ids, st.sampled_from(["owns", "Owns", "a->b", "pays 8"]), ids), max_size=6
    )
    return EntityMap(entities, tuple(draw(relations)))


def stands_in(name: str, text: str) -> bool:
    """A slow, lenient reference: letters and digits alone, in order, without regard to blanks and marks."""

    def bare(value: str) -> str:
        value = unicodedata.normalize("NFKC", re.sub("[™℠⁰¹²³⁴-⁹]", " ", value)).casefold()
        return "".join(character for character in re.sub(r"\.0+\b", "", value) if character.isalnum())

    return bool(bare(name)) and bare(name) in bare(text)


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


# The rendering.


@given(entity_maps(), TEXTS, st.randoms(use_true_random=False))
def test_ids_and_order_do_not_show(found: EntityMap, text: str, random: object) -> None:
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
def test_every_entity_and_fact_is_told_once(found: EntityMap) -> None:
    lines = render(found).split("\n") if found.entities else []
    heads, tails = [line.partition(" | ")[0] for line in lines], [line.partition(" | ")[2] for line in lines]
    assert len(set(heads)) == len(heads)
    assert not any(set("|;") & set(head) for head in heads)
    facts = [fact for tail in tails if tail for fact in tail.split("; ")]
    assert all(fact and not set("|;") & set(fact) for fact in facts)
    for entity in found.entities:
        name = folded(entity.name.replace("|", "/").replace(";", ","))
        assert any(name in folded(part) for part in (*heads, *facts))


def test_duplicates_are_one() -> None:
    facts = (MapAttribute("age", "36"), MapAttribute("Age", "36"), MapAttribute("town", "Bath"))
    entities = (
        MapEntity("a", "person", "Ada", facts[:1]),
        MapEntity("b", "person", "ADA", facts[1:]),
        MapEntity("c", "place", "Ada"),
        MapEntity("d", "place", "Bath"),
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
        MapEntity("b", "date", "-"),
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
def test_a_query_is_shown_as_what_it_mentions(query: str, shown: str) -> None:
    kept, _ = ground(parse_map(json.dumps(REPLY)), LEASE)
    assert query_view(kept, query) == shown


@given(entity_maps(), TEXTS, TEXTS)
def test_a_querys_view_holds_nothing_that_the_query_does_not_name(found: EntityMap, text: str, query: str) -> None:
    kept, _ = ground(found, text)
    shown = query_view(kept, query)
    for line in shown.split("\n") if shown else []:
        assert stands_in(re.sub("^(person|date): ", "", line).partition(" | ")[0], query)
