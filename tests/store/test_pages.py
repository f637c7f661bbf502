"""Pages of every search, and conditions on metadata: nothing twice, nothing left out, and wrong arguments refused."""

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb

from heal_tasks.store.db import connect
from heal_tasks.store.generations.generations import Generation
from tests.store.sample_store import SampleStore
from tests.store.test_find import DOCUMENTS, WIDTH, World

QUESTION = "w3 w8 w40 n20"
RED = '$.colour == "red" && $external_id starts with "d"'
SEARCHES = {
    "find": "heal.find(%(question)s, 10",  # by a plan that the session keeps
    "search": "heal.search(%(vector)s, %(gen)s::bigint, 30",
    "hybrid_search": "heal.hybrid_search(%(question)s, %(vector)s, %(gen)s::bigint, 30",
    "similar": "heal.similar(%(document)s::bigint, 30",
}


@pytest.fixture(scope="module")
def world(module_database_url: str) -> Iterator[World]:
    with connect(module_database_url, autocommit=True) as conn:
        yield World(SampleStore(conn))


@pytest.fixture(scope="module", params=[True, False], ids=["index", "exact"])
def served(request: pytest.FixtureRequest, world: World) -> Generation:
    return world.serve("cosine", request.param)


def ask(world: World, name: str, generation: Generation, **arguments: object) -> list[dict[str, object]]:
    extra = "".join(f", {key} => %({key})s" for key in arguments)
    values = {
        "question": QUESTION, "vector": np.eye(WIDTH)[0], "gen": generation.generation_id,
        "document": world.store.conn.execute("SELECT min(document_id) FROM heal.embedding").fetchall()[0][0],
    }  # fmt: skip
    statement = f"SELECT to_jsonb(hit) FROM {SEARCHES[name]}{extra}) WITH ORDINALITY hit"
    rows = world.store.conn.execute(statement, {**values, **arguments}).fetchall()  # type: ignore[arg-type]
    return [row[0] for row in rows]


def passing(world: World, name: str, condition: str | None) -> set[int]:
    """The chunks that the last page has to end with."""
    keep = np.ones(DOCUMENTS, dtype=bool) if condition is None else world.numbers % 2 == 0
    if name == "similar":
        keep &= world.ids != world.store.conn.execute(
            "SELECT chunk_id FROM heal.embedding ORDER BY document_id LIMIT 1"
        ).fetchall()[0][0]  # fmt: skip
    return {int(number) for number in world.ids[keep]}


@pytest.mark.parametrize("condition", [None, RED], ids=["all", "condition"])
@pytest.mark.parametrize("name", SEARCHES)
def test_the_pages_together_show_every_chunk_once(
    world: World, served: Generation, name: str, condition: str | None
) -> None:
    given = {} if condition is None else {"condition": condition}
    pages = [ask(world, name, served, **given)]
    assert len(pages[0]) == (10 if name == "find" else 30)
    while page := ask(world, name, served, after=Jsonb(pages[-1][-1]), **given):
        pages.append(page)
    found = [row["chunk_id"] for page in pages for row in page]
    assert len(found) == len(set(found))
    assert set(found) == passing(world, name, condition)
    measure, sign = ("score", -1) if "score" in pages[0][0] else ("distance", 1)
    later = [sign * float(str(row[measure])) for page in pages[1:] for row in page]
    assert later == sorted(later)
    assert {row["generation_id"] for page in pages for row in page} == {served.generation_id}


def test_a_page_is_continued_in_its_own_generation_only(world: World) -> None:
    first = world.serve("cosine", True)
    page = ask(world, "find", first)
    second = world.serve("cosine", False)
    with pytest.raises(psycopg.Error, match=f"of generation {first.generation_id}, and this") as raised:
        ask(world, "find", second, after=Jsonb(page[-1]))
    assert raised.value.sqlstate == "HEA04"
    assert raised.value.diag.message_hint == "Begin with the first page again: leave out `after`."
    # A search that is pinned goes on.
    pinned = ask(world, "search", first)
    assert ask(world, "search", first, after=Jsonb(pinned[-1]))


@pytest.mark.parametrize(
    "after", [{}, [], None, 1, {"chunk_id": 1}, {"chunk_id": "x", "score": 1, "distance": 1, "generation_id": 1},
              {"chunk_id": 2**70, "score": 1, "distance": 1, "generation_id": 1}], ids=str
)  # fmt: skip
@pytest.mark.parametrize("name", SEARCHES)
def test_what_is_no_row_of_a_page_is_refused(world: World, served: Generation, name: str, after: object) -> None:
    with pytest.raises(psycopg.Error, match="after must be the last row of the page before") as raised:
        ask(world, name, served, after=Jsonb(after))
    assert raised.value.sqlstate == "HEA03"


CONDITIONS = {
    "$.year >= 2019 && $.year < 2021": "b",
    '$.team == "ops" || $.team == "lab"': "ab",
    '$.day > "2024-02-01"': "b",
    '$.day.datetime() <= "2024-01-31".datetime()': "a",
    '$.tags[*] == "x"': "c",
    "exists($.tags)": "c",
    '!($.team == "ops")': "bc",
    '$source == "file:inbox" && $external_id == "c"': "c",
    '$title like_regex "^t.*A$" flag "i"': "a",
    '$changed_at > "2020-01-01T00:00:00" && $language == "english"': "abc",
    # A time without a zone is one of the session's.
    '$changed_at.datetime() > "2020-01-01T00:00:00+00:00".datetime()': "abc",
    '$.day.datetime() > "2024-02-15T12:00:00+00:00".datetime()': "b",
    # Values of another type, and keys that are not there, meet nothing.
    "$.team > 3": "",
    "strict $.nothing.deep == 1": "",
    '$.year.datetime() > "2024-01-01".datetime()': "",
}


def test_a_condition_compares_metadata_and_columns(store: SampleStore) -> None:
    metadata: dict[str, dict[str, object]] = {
        "a": {"year": 2018, "team": "ops", "day": "2024-01-31"},
        "b": {"year": 2020, "team": "lab", "day": "2024-03-01"},
        "c": {"year": "unknown", "tags": ["x", "y"]},
    }
    store.load(a="text a", b="text b", c="text c")
    for name, values in metadata.items():
        store.conn.execute(
            "UPDATE heal.document SET metadata = %s, title = %s, source = 'file:inbox' WHERE external_id = %s",
            (Jsonb(values), f"The {name}", name),
        )
    store.publish(store.generation())
    for condition, wanted in CONDITIONS.items():
        for more in ("", ", filter => '{}'"):
            statement = (
                f"SELECT d.external_id FROM heal.find('text', condition => %s{more}) JOIN heal.document d "
                "USING (document_id) ORDER BY 1"
            )
            rows = store.conn.execute(statement, (condition,)).fetchall()  # type: ignore[arg-type]
            assert "".join(row[0] for row in rows) == wanted, condition


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("$.year >", "syntax error"), ("$.year", "single boolean result is expected"),
        ("$ ? (@.year > 1)", "single boolean result is expected"), ("$who == 1", "could not find jsonpath variable"),
        ('$.a like_regex "("', "invalid regular expression"), ("strict $.year", "does not contain key"),
        ("", "invalid input"), ("(" * 4000, "condition"), ('$.a == "\\u0000"', "Unicode"),
        ("1 == 1 && " * 500 + "1 == 1", "condition has 5006 bytes, and 4096 are the most"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", SEARCHES)
def test_a_wrong_condition_is_refused_with_a_sentence(
    world: World, served: Generation, name: str, condition: str, message: str
) -> None:
    with pytest.raises(psycopg.Error, match=message) as raised:
        ask(world, name, served, condition=condition)
    assert raised.value.sqlstate == "HEA03"
    assert "condition" in (raised.value.diag.message_primary or "")
