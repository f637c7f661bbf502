"""A lease with its map, and maps and texts of any kind, for the tests of the check and of the rendering."""

import re
import unicodedata

from hypothesis import strategies as st

from heal_tasks.questions.maps.entity_maps import EntityMap, MapAttribute, MapEntity, MapRelation

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
