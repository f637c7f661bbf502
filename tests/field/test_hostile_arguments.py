"""Every SQL function for users takes any argument: it finds rows with finite numbers, or raises an error of its own."""

import math
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from psycopg import sql

from heal_tasks.store.db import Connection, connect, scalar
from heal_tasks.store.documents.topics import Labels, TopicRepository, TopicRow
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.served import Served
from tests.store.sample_store import DIMS, SampleStore, encode

ROWS, TOPIC, OTHER_TOPIC = 60, 11, 99
OWN_ERRORS = {"HEA01", "HEA02", "HEA03", "HEA04"}

UNIT = encode(["text 3"])[0]
VECTORS = (
    None,
    UNIT,
    -UNIT,
    UNIT * 1e-2,
    UNIT * 4e4,
    np.zeros(DIMS),
    UNIT * 1e-30,
    UNIT * 1e-42,
    UNIT * 1e30,
    UNIT * 3e38,
    UNIT * 1e6,
    np.ones(DIMS + 1),
    np.ones(1),
)
NUMBERS = (None, 0, 1, -1, -5, 2, 10, 11, 100, 101, 1000, 1001, 2**31 - 1, -(2**31))
HUGE = (2**63 - 1, -(2**63))
WEIGHTS = (None, 0.0, 1.0, 100.0, -1.0, 1e308, -1e308, 1e-320, math.nan, math.inf, -math.inf)
WORDS = " ".join(f"word{number}" for number in range(100_000))
TEXTS = (
    None,
    "",
    " ",
    "text 3",
    "text",
    "\N{PILE OF POO}",
    "' | & ! <-> :* \\",
    "x" * 5000,
    "a" * (1 << 20),
    WORDS,
    WORDS[:32_768],
    "%s %I $1 {}",
    "\N{RIGHT-TO-LEFT OVERRIDE}text",
    "text " * 6000,
)
LANGUAGES = (None, "english", "simple", "", "klingon", "pg_catalog.english", "english'", "a" * 70_000)
DEEP = '{"a":' * 3000 + "1" + "}" * 3000
FILTERS = (
    None,
    "{}",
    '{"part": 1}',
    '{"part": "no"}',
    "[]",
    "[1]",
    "1",
    "null",
    '"text"',
    "true",
    DEEP,
    '{"a": {"b": [[[{}]]]}}',
    '{"a": "%s"}' % ("x" * 200_000),
    '{"": null}',
)
CONDITIONS = (
    *TEXTS,
    "$.part >= 0 || $.part < 0",
    "$." + ".".join(["**"] * 200) + " == 1",
    "(" * 4000,
    "!(" * 1000 + "$.a == 1" + ")" * 1000,
    '$.a like_regex "(a*)*b"',
    '$.a == "\\u0000"',
    "$.part / 0 == 1",
    "$." + "x" * 4090 + "==1",
    "last == 1",
    "@ == 1",
)
PAGES = (
    *FILTERS,
    *(
        f'{{"generation_id": {gen}, "chunk_id": {chunk}, "score": {place}, "distance": {place}}}'
        for gen in (3, 2, '"3"', "null")
        for chunk in (1, 2**63, '"1"', '"x"')
        for place in (0, "1e400", '"NaN"')
    ),
)


def hostile(kind: str, name: str) -> list[object]:
    """Arguments of a type; each is tried in the place of a good one."""
    if kind == "vector[]":
        many = [UNIT] * 1001
        lists: list[object] = [None, [], [UNIT], [UNIT, None], [None], [UNIT, np.zeros(DIMS)], [UNIT, np.ones(3)], many]
        return lists
    if kind == "bigint[]":
        return [None, [], [1, None]]
    if kind == "text":
        return list({"language": LANGUAGES, "prefix": LANGUAGES, "condition": CONDITIONS}.get(name, TEXTS))
    if name == "after":
        return list(PAGES)
    table: dict[str, tuple[object, ...]] = {
        "vector": VECTORS,
        "integer": NUMBERS,
        "bigint": (*NUMBERS, *HUGE, TOPIC, OTHER_TOPIC),
        "double precision": WEIGHTS,
        "jsonb": FILTERS,
        "boolean": (None, True, False),
    }
    return list(table[kind])


class World:
    """Two searchable generations and a retired one, with topics and metadata."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        store = SampleStore(conn)
        store.load_many(ROWS)
        conn.execute("UPDATE heal.document SET metadata = jsonb_build_object('part', document_id % 2)")
        ids = np.array(sorted(row[0] for row in conn.execute("SELECT document_id FROM heal.document")), dtype=np.int64)
        leaves = (np.arange(ROWS) % 2).astype(np.int32)
        flat = np.zeros(ROWS, dtype=np.float32)
        for first in (OTHER_TOPIC - 1, TOPIC - 1):
            tree = [
                TopicRow(first, None, 0, 0, 1, ["all"], 2, None, ROWS),
                TopicRow(first + 1, first, 1, 0, 0, ["t"], 0, None, 1),
            ]
            self.topics = TopicRepository(conn).insert_run(
                fingerprint=f"f{first}",
                uri="u",
                churn=None,
                mean_residual=0.0,
                topics=tree,
                labels=Labels(ids, leaves, [[first + 1]] * ROWS, flat, flat),
            )
        for model, metric in (("m0", "cosine"), ("m1", "inner_product"), ("m", "cosine")):
            made = store.generation(model, topic_run_id=self.topics, metric=metric)
            rows = store.wanted(made)
            served = Served(rows.chunk_ids, rows.document_ids, (np.arange(ROWS) % 2).astype(np.int32), rows.vectors)
            store.served.write_served(made, served)
            store.write_lexicon(made, served, lexicon_weight=0.5)
            build_indexes(conn, made, memory_mb=64, kind="halfvec" if metric == "cosine" else "vector")
            store.generations.set_state(made.generation_id, "ready")
            store.generations.activate(made.generation_id, lock_timeout_ms=500)
        self.document = int(ids[0])
        self.chunk = int(scalar(conn, "SELECT chunk_id FROM heal.chunk WHERE document_id = %s", (self.document,)))

    def good(self, kind: str, name: str) -> object:
        """An argument that works."""
        named: dict[str, object] = {
            "gen": 3,
            "generation_id": 3,
            "k": 5,
            "topic": None,
            "filter": None,
            "language": None,
            "document": self.document,
            "chunk": self.chunk,
            "good": True,
            "voter": None,
            "prefix": "vec",
            "words_weight": None,
            "lexicon_weight": None,
            "condition": None,
            "after": None,
        }
        if name in named:
            return named[name]
        return {"vector": UNIT, "vector[]": [UNIT, -UNIT], "text": "text 3"}[kind]


@pytest.fixture(scope="module")
def world(module_database_url: str) -> Iterator[World]:
    with connect(module_database_url, autocommit=True) as conn:
        yield World(conn)


def user_functions(conn: Connection) -> list[tuple[str, list[str], list[str]]]:
    """Name, names of arguments and types of every function that a reader may call."""
    return conn.execute(
        """SELECT p.proname, p.proargnames[1:p.pronargs],
                  ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY u (t, n) ORDER BY n)
           FROM pg_proc p
           WHERE p.pronamespace = 'heal'::regnamespace AND p.pronargs > 0
             AND has_function_privilege('heal_reader', p.oid, 'EXECUTE')
           ORDER BY 1"""
    ).fetchall()


def call(conn: Connection, name: str, kinds: list[str], values: list[object]) -> str | None:
    """Call a function; the SQLSTATE of its error, or None after checking that all its numbers are finite."""
    parts = [sql.SQL("%s::{}").format(sql.SQL(kind)) for kind in kinds]  # type: ignore[arg-type]
    query = sql.SQL("SELECT * FROM {}({})").format(sql.Identifier("heal", name), sql.SQL(", ").join(parts))
    arguments = [
        [None if item is None else str(item.tolist()) for item in value]
        if kind == "vector[]" and isinstance(value, list)
        else str([float(x) for x in value])
        if isinstance(value, np.ndarray)
        else value
        for kind, value in zip(kinds, values, strict=True)
    ]
    try:
        with conn.transaction():
            conn.execute("SET LOCAL ROLE heal_reader")
            rows = conn.execute(query, arguments).fetchall()
    except psycopg.Error as error:
        return error.sqlstate or type(error).__name__
    for row in rows:
        for value in row:
            assert not isinstance(value, float) or math.isfinite(value), (name, values, row)
    return None


def test_functions_for_users_answer_or_refuse_any_argument(world: World) -> None:
    functions = user_functions(world.conn)
    assert {name for name, *_ in functions} >= {
        "search", "search_many", "similar", "find", "hybrid_search", "topic_search", "feedback"
    }  # fmt: skip
    world.conn.execute("SET statement_timeout = '10s'")
    outcomes: dict[str, set[str | None]] = {}
    for name, arguments, kinds in functions:
        good = [world.good(kind, argument) for kind, argument in zip(kinds, arguments, strict=True)]
        assert call(world.conn, name, kinds, good) is None, name
        for place, (kind, argument) in enumerate(zip(kinds, arguments, strict=True)):
            for value in hostile(kind, argument):
                # Values that Postgres itself refuses, before the function is called, are not its arguments.
                outcome = call(world.conn, name, kinds, [*good[:place], value, *good[place + 1 :]])
                assert outcome is None or outcome in OWN_ERRORS, (name, argument, str(value)[:80], outcome)
                outcomes.setdefault(name, set()).add(outcome)
    world.conn.execute("RESET statement_timeout")
    for name in ("search", "search_many", "hybrid_search", "topic_search"):
        assert outcomes[name] - {"HEA04"} == {None, "HEA01", "HEA02", "HEA03"}, name
    assert {name for name, found in outcomes.items() if "HEA04" in found} == {
        "find", "search", "similar", "hybrid_search"
    }  # fmt: skip


@pytest.mark.parametrize("generation", [2, 3])  # inner product with a vector index, cosine with a halfvec index
@pytest.mark.parametrize("k", [1, 100, 101])
def test_a_vector_without_length_is_refused_by_every_search(world: World, generation: int, k: int) -> None:
    query = str([0.0] * DIMS)
    for statement in (
        "SELECT * FROM heal.search(%(q)s::vector, %(g)s, %(k)s)",
        "SELECT * FROM heal.search(%(q)s::vector, %(g)s, %(k)s, filter => '{}')",
        "SELECT * FROM heal.search_many(ARRAY[%(q)s::vector], %(g)s, %(k)s)",
        "SELECT * FROM heal.hybrid_search('text 3', %(q)s::vector, %(g)s, %(k)s)",
        "SELECT * FROM heal.hybrid_search('unknown', %(q)s::vector, %(g)s, %(k)s)",
        "SELECT * FROM heal.topic_search(%(q)s::vector, %(g)s, %(k)s)",
    ):
        with pytest.raises(psycopg.Error, match=r"has length 0, which must be between 0\.001 and 50000") as raised:
            world.conn.execute(statement.encode(), {"q": query, "g": generation, "k": k})
        assert raised.value.sqlstate == "HEA02"


def test_messages_name_the_argument_and_the_value(world: World) -> None:
    for statement, code, message in (
        ("SELECT heal.topic_search('{u}', 3, -5)", "HEA03", "k must be between 1 and 1000, got -5"),
        ("SELECT heal.topic_search('{u}', 3, NULL)", "HEA03", "k must be between 1 and 1000, got null"),
        (
            "SELECT heal.search_many(ARRAY['{u}', NULL]::vector[], 3)",
            "HEA02",
            "query vector 2 has no dimensions, generation 3 has 8",
        ),
        ("SELECT heal.search_many(NULL, 3)", "HEA03", "got null queries with k = 10"),
        (
            "SELECT heal.search_many(array_fill('{u}'::vector, ARRAY[200]), 3, 501)",
            "HEA03",
            "takes up to 1000 queries and finds up to 100000 rows, got 200 queries with k = 501",
        ),
        ("SELECT heal.search('{u}', 3, filter => '[]')", "HEA03", r"filter must be a JSON object, got \[\]"),
        ("SELECT heal.find('text', filter => 'null')", "HEA03", "filter must be a JSON object, got null"),
        ("SELECT heal.find(repeat('word ', 7000))", "HEA03", "the text has 35000 characters, and 32768 are the most"),
    ):
        with pytest.raises(psycopg.Error, match=message) as raised:
            world.conn.execute(statement.replace("{u}", str(UNIT.tolist())).encode())
        assert raised.value.sqlstate == code
    assert world.conn.execute("SELECT * FROM heal.search_many('{}', 3)").fetchall() == []


def test_the_scale_of_a_query_within_the_bounds_does_not_change_what_cosine_finds(world: World) -> None:
    found = [
        [
            row[0]
            for row in world.conn.execute(
                "SELECT chunk_id FROM heal.search(%s::vector, 3, 5)", (str((UNIT * scale).tolist()),)
            )
        ]
        for scale in (1.0, 2e-3, 4e4)
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 5
