"""Every kind of index on planted rows: recall, plans, filters, pages, what a session keeps, a switch between kinds."""

from collections.abc import Iterator

import numpy as np
import pytest

from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, IndexKind
from heal_tasks.store.generations.indexing import FIRST_OVERSAMPLING, MAX_OVERSAMPLING, build_indexes, reach_recall
from heal_tasks.store.generations.search import reading_as
from heal_tasks.store.generations.served import Served
from heal_tasks.store.ownership import strangers
from heal_tasks.store.spaces.vector_tables import copy_vectors
from tests.store.sample_store import SampleStore

ROWS, WIDTH, CENTRES, TARGET = 4000, 64, 40, 0.95
KINDS: tuple[IndexKind, ...] = ("vector", "halfvec", "bit")
SETTINGS = (
    "hnsw.ef_search", "hnsw.iterative_scan", "hnsw.max_scan_tuples", "hnsw.scan_mem_multiplier", "enable_seqscan",
)  # fmt: skip


def unit(count: int, dims: int, seed: int) -> np.ndarray:
    """Rows around centres, in turns: float32, shape (count, dims)."""
    centres = np.random.default_rng(1).normal(size=(CENTRES, dims))
    noise = np.random.default_rng(seed).normal(size=(count, dims))
    found = (centres[np.arange(count) % CENTRES] + 0.7 * noise).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


QUESTIONS = unit(20, WIDTH, 9)


@pytest.fixture(scope="module")
def stored(module_database_url: str) -> Iterator[SampleStore]:
    """Documents, every other one even, with texts of two words, the first one for each centre; no generation."""
    with connect(module_database_url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash, metadata) "
            "SELECT n, 's', n, 'p', 'Title ' || n, 'b', n, jsonb_build_object('even', mod(n, 2) = 0) "
            "FROM generate_series(0, %s::bigint - 1) n",
            (ROWS,),
        )
        conn.execute(
            "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) "
            "SELECT n, n, 0, 'word' || mod(n, 40) || ' thing' || n, n FROM generate_series(0, %s::bigint - 1) n",
            (ROWS,),
        )
        conn.execute("ANALYZE heal.document, heal.chunk")
        yield SampleStore(conn)


def publish(store: SampleStore, kind: IndexKind, vectors: np.ndarray, questions: np.ndarray = QUESTIONS) -> Generation:
    """A live generation with a lexicon, stored questions, and the effort that reaches the target."""
    space = store.spaces.ensure("/m", str(len(store.spaces.list())), vectors.shape[1])
    copy_vectors(
        store.conn, space.table("question"), {"question_id": np.arange(len(questions), dtype=np.int64)}, questions
    )
    made = store.generations.create(run_id="r", space=space)
    store.generations.create_tables(made)
    ids = np.arange(len(vectors), dtype=np.int64)
    rows = Served(ids, ids, np.zeros(len(vectors), dtype=np.int32), vectors)
    store.served.write_served(made, rows)
    store.write_lexicon(made, rows)
    build_indexes(store.conn, made, memory_mb=64, kind=kind)
    store.generations.set_state(made.generation_id, "ready")
    store.generations.activate(made.generation_id, lock_timeout_ms=500)
    return reach_recall(store.conn, made, len(questions), TARGET)


@pytest.fixture(scope="module", params=KINDS)
def live(request: pytest.FixtureRequest, stored: SampleStore) -> Generation:
    return publish(stored, request.param, unit(ROWS, WIDTH, 3))


def chunks(conn: Connection, function: str, *values: object) -> list[int]:
    marks = ", ".join(["%s"] * len(values))
    return [row[0] for row in conn.execute(f"SELECT chunk_id FROM heal.{function}({marks})", values)]  # type: ignore[arg-type]


def nearest(vectors: np.ndarray, query: np.ndarray, passes: np.ndarray, k: int = 10) -> set[int]:
    """The true nearest rows of those that pass."""
    return set(np.flatnonzero(passes)[np.argsort(-(vectors[passes] @ query))[:k]].tolist())


def share(found: list[list[int]], true: list[set[int]]) -> float:
    return float(np.mean([len(set(hits) & wanted) / len(wanted) for hits, wanted in zip(found, true, strict=True)]))


def test_every_search_reaches_the_recall(stored: SampleStore, live: Generation) -> None:
    assert live.recall is not None
    assert live.recall >= TARGET
    assert (live.oversampling >= FIRST_OVERSAMPLING) == (live.index_kind == "bit")
    vectors, everything, conn = unit(ROWS, WIDTH, 3), np.ones(ROWS, dtype=bool), stored.conn
    true = [nearest(vectors, query, everything) for query in QUESTIONS]
    number = live.generation_id
    assert share([chunks(conn, "search", query, number) for query in QUESTIONS], true) >= 0.94
    # More than ten, by the plan for a hundred and without it; one.
    for k in (1, 50, 150):
        wanted = [nearest(vectors, query, everything, k) for query in QUESTIONS]
        assert share([chunks(conn, "search", query, number, k) for query in QUESTIONS], wanted) >= 0.9
    # No stem of these words has a vector of its own, so the vector decides.
    hybrid = [chunks(conn, "hybrid_search", "unknown", query, number) for query in QUESTIONS]
    assert share(hybrid, true) >= 0.94
    rows = range(0, 400, 10)
    own = [nearest(vectors, vectors[row], np.arange(ROWS) != row) for row in rows]
    assert share([chunks(conn, "similar", row) for row in rows], own) >= 0.94
    for number in range(20):
        found = chunks(conn, "find", f"word{number}")
        assert len(found) == 10
        assert all(chunk % CENTRES == number for chunk in found)


def test_plans_use_the_index(stored: SampleStore, live: Generation) -> None:
    index = f"vec_g{live.generation_id:06d}_hnsw"
    for more, told in (("", "by index"), (", filter => '{\"even\": true}'", "exact")):
        lines = [
            line for (line,) in stored.conn.execute(
                f"SELECT line FROM heal.explain(%s, %s::bigint{more})", (QUESTIONS[0], live.generation_id)  # type: ignore[arg-type]
            )
        ]  # fmt: skip
        assert lines[1].startswith(told)
        assert any(f"Index Scan using {index}" in line for line in lines) == (told == "by index")
        if told == "by index":
            candidates = f", of whose first {10 * live.oversampling} rows the full vectors are compared"
            effort = max(live.ef_search, min(10 * live.oversampling, 1000))
            wanted = f"by index ({live.index_kind}, ef_search {effort})" + candidates * (live.index_kind == "bit")
            assert lines[1] == wanted
    row = stored.conn.execute(
        "SELECT index_kind, oversampling, index_bytes > 0 FROM heal.generation_status WHERE generation_id = %s::bigint",
        (live.generation_id,),
    ).fetchone()
    assert row == (live.index_kind, live.oversampling, True)
    assert strangers(stored.conn) == [], "the expression of an index of bits is no code of others"


def test_filtered_searches_of_many_rows_go_through_the_index(stored: SampleStore, live: Generation) -> None:
    vectors, even = unit(ROWS, WIDTH, 3), np.arange(ROWS) % 2 == 0
    statement = (
        "SELECT n.chunk_id FROM heal.generation g, heal.nearest(%s, g, 10, filter => '{\"even\": true}', few => 0) n "
        "WHERE g.generation_id = %s::bigint"
    )
    with stored.conn.transaction():
        stored.conn.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        scans = f"SELECT pg_stat_get_xact_numscans('heal.vec_g{live.generation_id:06d}_hnsw'::regclass)"
        before = stored.conn.execute(scans).fetchone()  # type: ignore[arg-type]
        found = [[row[0] for row in stored.conn.execute(statement, (query, live.generation_id))] for query in QUESTIONS]
        assert before is not None
        assert stored.conn.execute(scans).fetchone() == (before[0] + len(QUESTIONS),)  # type: ignore[arg-type]
    assert all(chunk % 2 == 0 for hits in found for chunk in hits)
    assert share(found, [nearest(vectors, query, even) for query in QUESTIONS]) >= 0.97


def test_pages_have_every_row_once_and_in_order(stored: SampleStore, live: Generation) -> None:
    vectors = unit(ROWS, WIDTH, 3)
    for query in QUESTIONS[:5]:
        seen, after = list[tuple[int, float]](), None
        for _ in range(6):
            page = stored.conn.execute(
                "SELECT chunk_id, distance, to_jsonb(s) - 'text' FROM heal.search(%s, %s::bigint, 20, after => %s) s",
                (query, live.generation_id, after),
            ).fetchall()
            seen += [(row[0], row[1]) for row in page]
            after = page[-1][2]
        assert len({chunk for chunk, _ in seen}) == len(seen) == 120
        later = [distance for _, distance in seen[20:]]
        assert later == sorted(later)
        true = nearest(vectors, query, np.ones(ROWS, dtype=bool), 120)
        assert len(true & {chunk for chunk, _ in seen}) >= 114


def test_a_search_leaves_nothing_in_the_session(
    stored: SampleStore, live: Generation, module_database_url: str
) -> None:
    def kept(conn: Connection) -> list[str]:
        return [conn.execute("SELECT current_setting(%s)", (name,)).fetchall()[0][0] for name in SETTINGS]

    # As PgBouncer gives a server connection to one client after another, without resetting it.
    with connect(module_database_url, autocommit=True) as conn:
        conn.execute("SELECT '[1]'::vector <-> '[1]'::vector; SET hnsw.ef_search = 77")
        before = kept(conn)
        for function, values in (
            ("search", (QUESTIONS[0], live.generation_id)), ("search", (QUESTIONS[0], live.generation_id, 200)),
            ("find", ("word1",)), ("hybrid_search", ("word1", QUESTIONS[0], live.generation_id)), ("similar", (3,)),
        ):  # fmt: skip
            with conn.transaction():
                assert chunks(conn, function, *values)
                assert kept(conn) == before
            assert kept(conn) == before


@pytest.fixture
def readers(stored: SampleStore) -> Iterator[Connection]:
    """Documents of even numbers are for one principal, the others for another; so are the centres of the rows."""
    conn = stored.conn
    conn.execute("UPDATE heal.document SET acl = ARRAY[CASE mod(document_id, 2) WHEN 0 THEN 'even' ELSE 'odd' END]")
    conn.execute("ANALYZE heal.document")
    yield conn
    conn.execute("UPDATE heal.document SET acl = NULL")
    conn.execute("VACUUM (ANALYZE) heal.document")


def test_a_reader_reaches_the_recall_by_an_index_of_each_kind(readers: Connection, live: Generation) -> None:
    vectors, even, number = unit(ROWS, WIDTH, 3), np.arange(ROWS) % 2 == 0, live.generation_id
    near, far = QUESTIONS[::2], QUESTIONS[1::2]  # of centres with rows of even numbers, and of others
    with reading_as(readers, ["even"]):
        before = [readers.execute("SELECT current_setting(%s)", (name,)).fetchall() for name in SETTINGS]
        for k in (10, 50):
            true = [nearest(vectors, query, even, k) for query in near]
            assert share([chunks(readers, "search", query, number, k) for query in near], true) >= 0.94
        hybrid = [chunks(readers, "hybrid_search", "unknown", query, number) for query in near]
        assert share(hybrid, [nearest(vectors, query, even) for query in near]) >= 0.94
        (line,) = readers.execute(
            "SELECT line FROM heal.explain(%s, %s::bigint) OFFSET 1 LIMIT 1", (near[0], number)
        ).fetchall()[0]
        depth = 7 * min(40 * live.oversampling, 2000) if live.index_kind == "bit" else 100
        assert line.startswith(f"by index ({live.index_kind}, ef_search ")
        assert line.endswith(f": enough of the nearest {depth} rows may be read")
        found = [chunks(readers, "search", query, number) for query in far]
        assert share(found, [nearest(vectors, query, even) for query in far]) >= 0.94
        statement = (
            "SELECT n.chunk_id FROM heal.generation g, heal.nearest(%s, g, 10, few => 0, permitted => '{even}') n "
            "WHERE g.generation_id = %s::bigint"
        )  # few: none are listed, so that the index is searched until enough rows have passed
        found = [[row[0] for row in readers.execute(statement, (query, number))] for query in far]
        assert share(found, [nearest(vectors, query, even) for query in far]) >= 0.94
        assert [readers.execute("SELECT current_setting(%s)", (name,)).fetchall() for name in SETTINGS] == before


def test_rows_are_written_beside_an_index_of_each_kind(stored: SampleStore, live: Generation) -> None:
    old = stored.served.load_served(live)
    moved = Served(old.chunk_ids, old.document_ids, old.leaves, old.vectors.copy())
    moved.vectors[7] = QUESTIONS[0]
    assert stored.served.upsert_served(live, moved).changed == 1
    assert chunks(stored.conn, "search", QUESTIONS[0], live.generation_id)[0] == 7
    assert stored.served.upsert_served(live, old).changed == 1


def test_the_next_generation_may_have_another_kind(stored: SampleStore) -> None:
    vectors = unit(1000, WIDTH, 4)
    first, second = publish(stored, "bit", vectors), publish(stored, "halfvec", vectors)
    assert (first.index_kind, second.index_kind, second.oversampling) == ("bit", "halfvec", 1)
    for query in QUESTIONS[:10]:
        found = [set(chunks(stored.conn, "search", query, item.generation_id)) for item in (first, second)]
        assert len(found[0] & found[1]) >= 8
    stored.generations.activate(first.generation_id, lock_timeout_ms=500)
    assert len(chunks(stored.conn, "search", QUESTIONS[0], first.generation_id)) == 10
    # Built anew in place, as after a REINDEX by hand.
    build_indexes(stored.conn, first, memory_mb=64, kind="vector")
    again = stored.generations.get(first.generation_id)
    assert (again.index_kind, again.oversampling) == ("vector", 1)
    assert len(chunks(stored.conn, "search", QUESTIONS[0], first.generation_id)) == 10


def test_bits_that_say_nothing_miss_the_recall_at_the_limit(stored: SampleStore) -> None:
    """Every coordinate is positive, so that all rows have the same bits."""
    vectors = np.abs(unit(ROWS, WIDTH, 5))
    made = publish(stored, "bit", vectors, np.abs(QUESTIONS))
    assert made.oversampling == MAX_OVERSAMPLING
    assert made.recall is not None
    assert made.recall < TARGET


@pytest.mark.parametrize("kind", ["halfvec", "bit"])
def test_vectors_of_more_than_2000_dimensions(stored: SampleStore, kind: IndexKind) -> None:
    vectors, questions = unit(600, 3072, 6), unit(10, 3072, 7)
    made = publish(stored, kind, vectors, questions)
    assert made.dims == 3072
    assert made.recall is not None
    assert made.recall >= TARGET
    everything = np.ones(600, dtype=bool)
    for k, floor in ((10, 0.94), (200, 0.9)):
        found = [chunks(stored.conn, "search", query, made.generation_id, k) for query in questions]
        assert share(found, [nearest(vectors, query, everything, k) for query in questions]) >= floor
        lines = stored.conn.execute(
            "SELECT line FROM heal.explain(%s, %s::bigint, %s)", (questions[0], made.generation_id, k)
        ).fetchall()
        assert any("_hnsw" in line for (line,) in lines), (
            "vectors outside the table are dear, which the planner ignores"
        )
    exact = stored.conn.execute(
        "SELECT n.chunk_id FROM heal.generation g, heal.nearest(%s, g, 10, exact => true) n "
        "WHERE g.generation_id = %s::bigint ORDER BY n.distance",
        (questions[0], made.generation_id),
    ).fetchall()
    assert {row[0] for row in exact} == nearest(vectors, questions[0], everything)
    lexicon = stored.lexicons.load(made, [("simple", "word7"), ("english", "word7")])
    assert lexicon.vectors.shape[1] == 3072
    assert len(chunks(stored.conn, "find", "word7")) == 10
