"""The SQL functions as an application calls them: through psql, on a store large enough to have to use its indexes."""

import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from psycopg.types.json import Jsonb

from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import connect
from heal_tasks.store.documents.topics import Labels, TopicRepository, TopicRow
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.served import Served
from tests.store.sample_store import SampleStore

ROWS, WIDTH, LEAVES = 30_000, 32, 40
PARTS = ((200, LEAVES // 5), (300, LEAVES // 2))
"""Subtrees of several leaves: number of the first topic, and how many leaves it has."""
Psql = Callable[..., list[list[str]]]


def run_psql(server: EmbeddedPostgres, url: str, statement: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(server.bin("psql")),
        url,
        "-X",
        "-At",
        "-F",
        "\t",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=verbose",
    ]
    return subprocess.run([*command, "-c", statement], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def psql(postgres: EmbeddedPostgres, module_database_url: str) -> Psql:
    def ask(statement: str) -> list[list[str]]:
        done = run_psql(postgres, module_database_url, statement)
        assert done.returncode == 0, done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()]

    return ask


def literal(vector: np.ndarray) -> str:
    return "'[" + ",".join(f"{value:.7g}" for value in vector) + "]'"


class Large:
    """Clustered vectors, a cluster per leaf; document n has metadata tenth (n modulo 10), hundredth and most."""

    def __init__(self, store: SampleStore) -> None:
        self.conn = store.conn
        rng = np.random.default_rng(7)
        self.leaves = rng.integers(0, LEAVES, ROWS).astype(np.int32)
        centres = rng.normal(size=(LEAVES, WIDTH))
        self.vectors = (centres[self.leaves] + 0.6 * rng.normal(size=(ROWS, WIDTH))).astype(np.float32)
        self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.ids = np.arange(ROWS, dtype=np.int64)
        self.queries = self.vectors[rng.permutation(ROWS)[:20]] + 0.1 * rng.normal(size=(20, WIDTH)).astype(np.float32)
        with store.conn.transaction():
            store.conn.execute(
                """INSERT INTO heal.document
                    (document_id, source, external_id, path, title, body, content_hash, metadata)
                SELECT n, 's', n, 'p', 'Title ' || n, 'b', n, jsonb_build_object(
                    'tenth', n %% 10, 'hundredth', n %% 100, 'most', n %% 20 > 0,
                    'tags', jsonb_build_array('all', 'n' || n))
                FROM generate_series(0, %s::bigint - 1) n""",
                (ROWS,),
            )
            store.conn.execute(
                "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) "
                "SELECT n, n, 0, 'text ' || n, n FROM generate_series(0, %s::bigint - 1) n",
                (ROWS,),
            )
        store.conn.execute("ANALYZE heal.document; ANALYZE heal.chunk")
        tree = [TopicRow(1, None, 0, 0, LEAVES - 1, ["all"], LEAVES, None, ROWS)]
        tree += [TopicRow(100 + leaf, 1, 1, leaf, leaf, [f"t{leaf}"], 0, None, 1) for leaf in range(LEAVES)]
        tree += [TopicRow(99, 1, 1, 1, LEAVES - 1, ["nearly", "all"], LEAVES, None, ROWS)]
        tree += [
            TopicRow(base + first, 1, 1, first, first + width - 1, ["part"], width, None, ROWS)
            for base, width in PARTS
            for first in range(0, LEAVES, width)
        ]
        flat = np.zeros(ROWS, dtype=np.float32)
        labels = Labels(self.ids, self.leaves, [[100 + int(leaf)] for leaf in self.leaves], flat, flat)
        run = TopicRepository(store.conn).insert_run(
            fingerprint="f", uri="u", churn=None, mean_residual=0.0, topics=tree, labels=labels
        )
        generations = store.generations
        space = store.spaces.ensure("/m", "m", WIDTH)
        self.generation = generations.create(run_id="r", space=space, topic_run_id=run)
        generations.create_tables(self.generation)
        store.served.write_served(self.generation, Served(self.ids, self.ids, self.leaves, self.vectors))
        build_indexes(store.conn, self.generation, memory_mb=256, parallel=2)
        generations.set_state(self.generation.generation_id, "ready")
        generations.activate(self.generation.generation_id, lock_timeout_ms=500)

    def nearest(self, query: np.ndarray, passes: np.ndarray, k: int) -> list[int]:
        allowed = np.flatnonzero(passes)
        return allowed[np.argsort(-(self.vectors[allowed] @ query), kind="stable")[:k]].tolist()


@pytest.fixture(scope="module")
def large(module_database_url: str) -> Iterator[Large]:
    with connect(module_database_url, autocommit=True) as conn:
        yield Large(SampleStore(conn))


def far_leaf(large: Large, query: np.ndarray) -> int:
    means = np.stack([large.vectors[large.leaves == leaf].mean(axis=0) for leaf in range(LEAVES)])
    return int(np.argmin(means @ query))


def recall_of(large: Large, psql: Psql, arguments: Callable[[np.ndarray], tuple[str, np.ndarray]]) -> float:
    shares = []
    for query in large.queries:
        extra, passes = arguments(query)
        rows = psql(f"SELECT chunk_id FROM heal.search({literal(query)}, {large.generation.generation_id}, 10{extra})")
        found = [int(row[0]) for row in rows]
        assert all(passes[found])
        assert len(found) == 10
        shares.append(len(set(found) & set(large.nearest(query, passes, 10))) / 10)
    return float(np.mean(shares))


@pytest.mark.parametrize(("name", "value", "modulus"), [("tenth", 3, 10), ("hundredth", 42, 100)], ids=["10 %", "1 %"])
def test_a_metadata_filter_keeps_the_recall(large: Large, psql: Psql, name: str, value: int, modulus: int) -> None:
    passes = large.ids % modulus == value
    extra = f""", filter => '{{"{name}": {value}}}'"""
    assert recall_of(large, psql, lambda query: (extra, passes)) >= 0.95


def test_a_condition_keeps_the_recall(large: Large, psql: Psql) -> None:
    passes = (large.ids % 100 >= 95) | (large.ids % 10 == 3)
    extra = ", condition => '$.hundredth >= 95 || $.tenth == 3'"
    assert recall_of(large, psql, lambda query: (extra, passes)) >= 0.95


def test_pages_keep_the_recall(large: Large) -> None:
    shares = []
    for query in large.queries[:5]:
        found: list[int] = []
        after = None
        for _ in range(5):
            rows = large.conn.execute(
                "SELECT chunk_id, to_jsonb(hit) FROM heal.search(%s, %s::bigint, 10, after => %s) hit",
                (query, large.generation.generation_id, after),
            ).fetchall()
            found += [row[0] for row in rows]
            after = Jsonb(rows[-1][1])
        assert len(set(found)) == 50
        shares.append(len(set(found) & set(large.nearest(query, large.ids >= 0, 50))) / 50)
    assert np.mean(shares) >= 0.95


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ("", ("30000 of 30000 rows pass (100.0 %)", "by index (vector, ef_search 100)", "_hnsw")),
        ("filter => '{\"tenth\": 3}'", ("3000 of 30000 rows pass (10.0 %)", "exact: every", "_document")),
        ("topic => 200", ("rows pass", "exact: every row that passes", "_leaf")),
        ("k => 200", ("30000 of", "by index (vector, ef_search 400)", "_hnsw")),
    ],
    ids=["all", "filter", "topic", "many rows"],
)
def test_explain_shows_how_a_search_finds_its_rows(
    large: Large, psql: Psql, arguments: str, lines: tuple[str, ...]
) -> None:
    call = f"heal.explain({literal(large.queries[0])}, {large.generation.generation_id}"
    found = "\n".join(row[0] for row in psql(f"SELECT line FROM {call}{arguments and ', ' + arguments})"))
    for line in (*lines, "Execution Time"):
        assert line in found, found
    assert literal(large.queries[0])[1:20] not in found


def through_the_index(large: Large, query: np.ndarray, **arguments: object) -> list[int]:
    """Ten nearest chunks by ``heal.nearest``, for which even the fewest rows are too many to compare."""
    extra = "".join(f", {name} => %({name})s" for name in arguments)
    statement = (
        "SELECT n.chunk_id FROM heal.generation g, heal.nearest(%(query)s, g, 10, few => 0" + extra + ") n "
        "WHERE g.generation_id = %(gen)s ORDER BY n.distance, n.chunk_id"
    )
    values = {"query": query, "gen": large.generation.generation_id, **arguments}
    with large.conn.transaction():
        # So few rows the planner would compare and sort by itself.
        large.conn.execute("SET LOCAL enable_sort = off")
        return [row[0] for row in large.conn.execute(statement, values)]  # type: ignore[arg-type]


def test_a_filter_that_leaves_too_many_rows_to_compare_keeps_the_recall(large: Large) -> None:
    passes = large.ids % 20 > 0
    found = [through_the_index(large, query, filter=Jsonb({"most": True})) for query in large.queries]
    shares = [
        len(set(ids) & set(large.nearest(query, passes, 10))) / 10
        for ids, query in zip(found, large.queries, strict=True)
    ]
    assert np.mean(shares) >= 0.95


@pytest.mark.parametrize(("base", "width"), PARTS, ids=["a fifth", "half"])
def test_a_large_far_subtree_keeps_the_recall(large: Large, base: int, width: int) -> None:
    means = np.stack([large.vectors[large.leaves == leaf].mean(axis=0) for leaf in range(LEAVES)])
    shares = []
    for query in large.queries:
        nearest_leaf = (means @ query).reshape(-1, width).max(axis=1)
        first = int(np.argmin(nearest_leaf)) * width
        passes = (large.leaves >= first) & (large.leaves < first + width)
        wanted = large.nearest(query, passes, 10)
        shares.append(len(set(through_the_index(large, query, topic=base + first)) & set(wanted)) / 10)
    assert np.mean(shares) >= 0.95


def test_a_scan_that_ends_too_soon_is_done_again_by_comparing(large: Large) -> None:
    for query in large.queries[:5]:
        leaf = far_leaf(large, query)
        assert (large.leaves == leaf).sum() < 1000, "the scan is to find fewer rows than it wants"
        wanted = large.nearest(query, large.leaves == leaf, 10)
        assert through_the_index(large, query, topic=100 + leaf) == wanted


def test_a_far_topic_keeps_the_recall(large: Large, psql: Psql) -> None:
    def arguments(query: np.ndarray) -> tuple[str, np.ndarray]:
        leaf = far_leaf(large, query)
        return f", topic => {100 + leaf}", large.leaves == leaf

    assert recall_of(large, psql, arguments) >= 0.95


def test_a_topic_that_is_nearly_everything_keeps_the_recall(large: Large, psql: Psql) -> None:
    assert recall_of(large, psql, lambda query: (", topic => 99", large.leaves > 0)) >= 0.95


def test_topic_and_filter_together(large: Large, psql: Psql) -> None:
    def arguments(query: np.ndarray) -> tuple[str, np.ndarray]:
        leaf = far_leaf(large, query)
        passes = (large.leaves == leaf) & (large.ids % 10 == 3)
        assert passes.sum() >= 10
        return f""", topic => {100 + leaf}, filter => '{{"tenth": 3, "tags": ["all"]}}'""", passes

    assert recall_of(large, psql, arguments) == 1.0


def test_search_many_is_search_for_each(large: Large, psql: Psql) -> None:
    number = large.generation.generation_id
    array = "ARRAY[" + ",".join(literal(query) for query in large.queries[:3]) + "]::vector[]"
    many = psql(f"SELECT query_number, chunk_id, title FROM heal.search_many({array}, {number}, 4, topic => 99)")
    single = [
        [str(place + 1), *row]
        for place, query in enumerate(large.queries[:3])
        for row in psql(f"SELECT chunk_id, title FROM heal.search({literal(query)}, {number}, 4, topic => 99)")
    ]
    assert many == single


def test_the_topics_of_a_query_are_those_of_its_nearest_chunks(large: Large, psql: Psql) -> None:
    query = large.vectors[5]
    rows = psql(
        "SELECT topic_id, level, terms, hits "
        f"FROM heal.topic_search({literal(query)}, {large.generation.generation_id})"
    )
    near = large.leaves[large.nearest(query, large.ids >= 0, 100)]
    expected = {100 + int(leaf): int((near == leaf).sum()) for leaf in np.unique(near)} | {99: int((near > 0).sum())}
    for base, width in PARTS:
        expected |= {base + int(at) * width: int((near // width == at).sum()) for at in np.unique(near // width)}
    assert {int(row[0]): int(row[3]) for row in rows} == dict(sorted(expected.items(), key=lambda item: -item[1])[:10])
    assert [int(row[3]) for row in rows] == sorted((int(row[3]) for row in rows), reverse=True)


def test_status_and_topics_are_views(large: Large, psql: Psql) -> None:
    ((state, rows, recall, index_bytes),) = psql(
        "SELECT state, rows, recall, index_bytes > 1000000 FROM heal.generation_status"
    )
    assert (state, rows, recall, index_bytes) == ("active", str(ROWS), "", "t")
    assert psql("SELECT count(*) FROM heal.topics") == [[str(LEAVES + 2 + sum(LEAVES // width for _, width in PARTS))]]
    assert psql("SELECT title, topic_path, generation_id FROM heal.lineage WHERE chunk_id = 5") == [
        ["Title 5", f"{{{100 + large.leaves[5]}}}", str(large.generation.generation_id)]
    ]


def test_settings_of_the_search_end_with_it(large: Large, psql: Psql) -> None:
    search = f"SELECT count(*) FROM heal.search({literal(large.queries[0])}, {large.generation.generation_id}, 10)"
    shown = psql(f"BEGIN; {search}; SELECT current_setting('hnsw.iterative_scan'), current_setting('hnsw.ef_search')")
    assert shown[-1] == ["off", "40"]


def test_every_function_procedure_and_view_has_a_comment(psql: Psql) -> None:
    assert (
        psql(
            """SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pronamespace = 'heal'::regnamespace
        AND obj_description(p.oid, 'pg_proc') IS NULL AND prorettype <> 'trigger'::regtype
        UNION ALL SELECT c.oid::regclass::text FROM pg_class c
        WHERE relnamespace = 'heal'::regnamespace AND relkind = 'v' AND obj_description(c.oid, 'pg_class') IS NULL"""
        )
        == []
    )
