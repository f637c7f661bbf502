"""Entity maps: the prompt, and the parser of its reply."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError
from heal_tasks.questions.maps.entity_maps import MapAttribute, MapEntity, ground
from heal_tasks.questions.maps.map_prompt import map_prompt, parse_map
from heal_tasks.questions.maps.rendering import render
from heal_tasks.questions.writer import ChunkToAsk

GOOD = json.dumps({
    "entities": [
        {"id": "o", "type": "organisation", "name": "Acme", "attributes": [{"key": "seat", "value": "Bath"}]},
        {"id": "p", "type": "place", "name": "27 Quay Street", "attributes": []},
    ],
    "relations": [{"source": "o", "predicate": "lets", "target": "p"}],
})  # fmt: skip


def depth(schema: dict[str, object], part: object) -> int:
    """Objects and lists inside each other, references followed."""
    if not isinstance(part, dict):
        return 0
    if "$ref" in part:
        return depth(schema, schema["$defs"][part["$ref"].rsplit("/", 1)[-1]])  # type: ignore[index]
    inner = [*part.get("properties", {}).values(), part.get("items")]
    return (part.get("type") in ("object", "array")) + max(depth(schema, each) for each in inner)


def system() -> str:
    return map_prompt().messages(ChunkToAsk(1, "t", "text", "h"), "")[0]["content"]


def test_the_schema_is_strict_and_shallow() -> None:
    schema = map_prompt().schema
    objects = [schema, *schema["$defs"].values()]
    assert len(objects) == 4
    for each in objects:
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])
    assert depth(schema, schema) == 5
    assert not re.search(r'"(min|max)|"pattern"|"default"|"anyOf"', json.dumps(schema))


def test_every_type_of_the_schema_is_in_the_prompt() -> None:
    types = map_prompt().schema["$defs"]["MapEntity"]["properties"]["type"]["enum"]
    assert len(types) == 10
    assert all(f'"{name}"' in system() for name in types)


def test_the_prompt_follows_its_own_rules() -> None:
    (text,) = re.findall(r'Example of a passage: "(.*)"', system())
    (reply,) = re.findall(r"Example of a reply: (.*)", system())
    kept, dropped = ground(parse_map(reply), text)
    assert not dropped
    assert len(kept.entities) == 4
    assert "{{" not in system()


def test_the_chunk_is_fenced_and_the_problem_comes_last() -> None:
    conversation = map_prompt().messages(ChunkToAsk(1, "a\n</passage>", "some text", "h"), "entities: missing")
    assert [message["role"] for message in conversation] == ["system", "user", "user"]
    assert re.search(
        r"<passage (\w+)>\nTitle: a <\u200b/passage>\n\nsome text\n</passage \1>$", conversation[1]["content"]
    )
    assert "entities: missing" in conversation[2]["content"]


@pytest.mark.parametrize(
    "raw",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f'<think>{{"entities": [], "relations": []}}?</think>{GOOD}',
        f'Here: {{"a": 1}} {GOOD} I hope {{it}}.',
        json.dumps({"plan": [{"step": n} for n in range(60)]}) + GOOD,
    ],
    ids=["plain", "fence", "reasoning", "between sentences", "after a long plan"],
)
def test_finds_the_json(raw: str) -> None:
    assert render(parse_map(raw)) == "organisation: Acme | seat Bath; lets 27 Quay Street"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("", "no complete JSON object"),
        (GOOD[:-3], "no complete JSON object"),
        (GOOD[:20], "no complete JSON object"),
        ('{"entities": []}', "relations: Field required"),
        (GOOD.replace('"27 Quay Street"', "[]"), r"entities\.1\.name: Input should be a valid string"),
        (GOOD.replace('"id": "p"', '"id": "o"'), "an id is used twice"),
    ],
)
def test_names_the_problem(raw: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        parse_map(raw)


def test_a_problem_quotes_nothing_of_the_reply() -> None:
    for field in ("name", "attributes"):
        entity = {"id": "SECRET", "type": "other", "name": "SECRET", "attributes": [], field: {"SECRET": 1}}
        with pytest.raises(InputError) as caught:
            parse_map(json.dumps({"entities": [entity], "relations": []}))
        assert "SECRET" not in str(caught.value)


def test_an_unknown_type_is_other() -> None:
    assert [entity.type for entity in parse_map(GOOD.replace('"place"', '"realm"')).entities] == [
        "organisation",
        "other",
    ]


def test_numbers_and_blanks_are_tidied() -> None:
    entity = {"id": 1, "type": "amount", "name": " 5\n kg\u0000", "attributes": [{"key": "n", "value": 7}]}
    (parsed,) = parse_map(json.dumps({"entities": [entity], "relations": []})).entities
    assert parsed == MapEntity("1", "amount", "5 kg\ufffd", (MapAttribute("n", "7"),))


def test_limits_and_unknown_ends() -> None:
    entities = [{"id": f"e{n}", "type": "other", "name": f"n{n}", "attributes": []} for n in range(45)]
    relations = [{"source": "e0", "predicate": f"p{n}", "target": f"e{n}"} for n in range(45)]
    parsed = parse_map(json.dumps({"entities": entities, "relations": relations * 2}))
    assert [entity.id for entity in parsed.entities] == [f"e{n}" for n in range(40)]
    assert len(parsed.relations) == 60
    assert {relation.target for relation in parsed.relations} == {f"e{n}" for n in range(40)}


@given(st.text(alphabet='{}[]":, entitsrlaoyp\\u0d8', max_size=200))
def test_any_text_gives_a_map_or_an_input_error(raw: str) -> None:
    try:
        parse_map(raw)
    except InputError as error:
        assert str(error)
