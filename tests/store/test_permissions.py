"""Who may see: no search function and no view shows a document to a session that is not on its list."""

import psycopg
import pytest

from heal_tasks.core.types import Record
from heal_tasks.store.db import Connection
from heal_tasks.store.migrate import migrate
from tests.store.sample_store import SOURCE, SampleStore, chunker, encode

ALL = 30
READERS = {0: None, 1: ["alice"], 2: ["bob", "group:x"], 3: []}
"""Readers of document n, by n modulo 4."""


def load(store: SampleStore, acls: dict[int, object] = READERS, count: int = ALL) -> None:  # type: ignore[assignment]
    records = [
        Record(f"d{n}", f"title {n}", f"text {n} common word", {"n": n} | ({} if acl is None else {"acl": acl}))
        for n in range(count)
        for acl in [acls[n % len(acls)]]
    ]
    store.documents.apply_records(SOURCE, records, chunker)


def be(conn: Connection, *principals: str) -> None:
    conn.execute("SELECT set_config('heal.principals', %s, false)", (",".join(principals),))


def allowed(*principals: str) -> set[str]:
    return {
        f"d{n}" for n in range(ALL)
        if READERS[n % 4] is None or set(READERS[n % 4] or ()) & set(principals)
    }  # fmt: skip


@pytest.fixture(params=["vector", "bit", "none"])
def served(store: SampleStore, request: pytest.FixtureRequest) -> SampleStore:
    load(store)
    store.publish(store.generation("m"), kind=request.param)
    return store


STATEMENTS = {
    "search": "SELECT * FROM heal.search(%(q)s::vector, %(gen)s::bigint, 40)",
    "search filtered": "SELECT * FROM heal.search(%(q)s::vector, %(gen)s::bigint, 40, filter => '{}')",
    "search conditioned": "SELECT * FROM heal.search(%(q)s::vector, %(gen)s::bigint, 40, condition => '$.n >= 0')",
    "search both": (
        "SELECT * FROM heal.search(%(q)s::vector, %(gen)s::bigint, 40, filter => '{}', condition => '$.n >= 0')"
    ),
    "search_many": "SELECT * FROM heal.search_many(ARRAY[%(q)s::vector], %(gen)s::bigint, 40)",
    "find": "SELECT * FROM heal.find('common word', 40)",
    "find ten": "SELECT * FROM heal.find('common word', 10)",
    "find filtered": "SELECT * FROM heal.find('common word', 40, filter => '{}')",
    "hybrid": "SELECT * FROM heal.hybrid_search('common word', %(q)s::vector, %(gen)s::bigint, 40)",
    "hybrid filtered": (
        "SELECT * FROM heal.hybrid_search('common word', %(q)s::vector, %(gen)s::bigint, 40, filter => '{}')"
    ),
    "passages": "SELECT * FROM heal.passages",
    "lineage": "SELECT * FROM heal.lineage",
    "embedding": "SELECT * FROM heal.embedding",
}


@pytest.mark.parametrize("who", [(), ("alice",), ("group:x", "alice"), ("nobody",)], ids=str)
def test_every_way_shows_the_documents_of_its_principals_and_no_other(
    served: SampleStore, who: tuple[str, ...]
) -> None:
    be(served.conn, *who)
    names = dict(served.conn.execute("SELECT document_id, external_id FROM heal.document").fetchall())
    values = {"q": str(encode(["text 1 common word"])[0].tolist()), "gen": 1}
    for name, statement in STATEMENTS.items():
        rows = served.conn.execute(f"SELECT document_id FROM ({statement}) s", values).fetchall()  # type: ignore[arg-type]
        found = {names[row[0]] for row in rows}
        if name == "find ten":
            assert len(found) == min(10, len(allowed(*who))), name
            assert found <= allowed(*who), name
        else:
            assert found == allowed(*who), name


def documents(store: SampleStore) -> dict[str, int]:
    return dict(store.conn.execute("SELECT external_id, document_id FROM heal.document").fetchall())


def named(store: SampleStore, statement: str, values: dict[str, object] | None = None) -> list[str]:
    names = {key: name for name, key in documents(store).items()}
    rows = store.conn.execute(f"SELECT document_id FROM ({statement}) s", values).fetchall()  # type: ignore[arg-type]
    return [names[row[0]] for row in rows]


def test_a_document_that_one_may_not_read_is_like_none_to_heal_similar(served: SampleStore) -> None:
    be(served.conn, "alice")
    ids, statement = documents(served), "SELECT * FROM heal.similar(%(d)s::bigint, 40)"
    assert set(named(served, statement, {"d": ids["d1"]})) == allowed("alice") - {"d1"}
    refusals = []
    for document in (ids["d2"], ids["d3"], 12345):
        with pytest.raises(psycopg.Error) as caught:
            served.conn.execute(statement, {"d": document})
        refusals.append(str(caught.value).replace(str(document), "N"))
    assert len(set(refusals)) == 1
    assert "document N has no vector in generation 1" in refusals[0]


def test_pages_go_through_what_one_may_read_once(served: SampleStore) -> None:
    be(served.conn, "alice", "bob")
    seen = list[str]()
    after = None
    for _ in range(9):
        rows = served.conn.execute(
            "SELECT to_jsonb(h), h.document_id FROM heal.search(%s::vector, 1::bigint, 4, after => %s) h "
            "ORDER BY h.distance, h.chunk_id",
            (str(encode(["x"])[0].tolist()), after),
        ).fetchall()
        if not rows:
            break
        after = rows[-1][0]
        names = {key: name for name, key in documents(served).items()}
        seen += [names[row[1]] for row in rows]
    assert sorted(seen) == sorted(allowed("alice", "bob"))


def test_a_search_explains_itself_to_a_reader_and_counts_only_what_may_be_read(served: SampleStore) -> None:
    be(served.conn, "alice")
    lines = served.conn.execute(
        "SELECT line FROM heal.explain(%s::vector, 1::bigint)", (str(encode(["x"])[0].tolist()),)
    ).fetchall()
    assert lines[0][0].startswith(f"generation 1: {len(allowed('alice'))} of {ALL} rows pass")
    assert lines[1][0] == "exact: every row that passes is compared"


def test_a_reader_of_few_of_the_nearest_gets_ten_all_the_same(served: SampleStore) -> None:
    """Alice may read 15 of 30 documents, by the statistics more than a twentieth: a plan is tried that needs 20."""
    served.conn.execute("ANALYZE heal.document")
    be(served.conn, "alice")
    assert served.conn.execute("SELECT heal.widely_readable('{alice}')").fetchall() == [(True,)]
    ten = served.conn.execute("SELECT title FROM heal.find('common word')").fetchall()
    assert ten == served.conn.execute("SELECT title FROM heal.find('common word', 15)").fetchall()[:10]
    assert len(ten) == 10


def test_a_new_list_counts_at_once_in_the_live_and_in_the_previous_generation(served: SampleStore) -> None:
    served.publish(served.generation("m"))
    be(served.conn, "carol")
    values = {"q": str(encode(["x"])[0].tolist())}
    searches = [f"SELECT * FROM heal.search(%(q)s::vector, {gen}::bigint, 40)" for gen in (1, 2)]
    assert all("d3" not in named(served, search, values) for search in searches)
    load(served, READERS | {3: ["carol"]})
    assert all("d3" in named(served, search, values) for search in searches)
    load(served, READERS | {0: ["carol"]})
    assert all(set(named(served, search, values)) == {f"d{n}" for n in range(0, ALL, 4)} for search in searches)


def test_principals_are_the_setting_or_else_the_roles(store: SampleStore) -> None:
    conn = store.conn

    def principals() -> list[str]:
        ((found,),) = conn.execute("SELECT heal.principals()").fetchall()
        return found  # type: ignore[no-any-return]

    user = f"role:{conn.info.user}"
    assert user in principals()
    for text, wanted in [
        ("alice", ["alice"]),
        (" alice , group:x", ["alice", "group:x"]),
        ('{"cn=a,dc=b",c}', ["cn=a,dc=b", "c"]),
        ("{}", []),
    ]:
        conn.execute("SELECT set_config('heal.principals', %s, false)", (text,))
        assert principals() == wanted
    with conn.transaction():
        conn.execute("RESET heal.principals")
        conn.execute("SET LOCAL heal.principals = 'alice'")
        assert principals() == ["alice"]
    assert user in principals()  # the setting is now an empty text


def test_a_role_of_the_database_is_a_principal(store: SampleStore) -> None:
    load(store, {0: ["role:heal_reader"], 1: ["role:other"], 2: ["role:heal_pipeline"]})
    store.publish(store.generation("m"))
    with store.conn.transaction():
        store.conn.execute("SET LOCAL ROLE heal_reader")
        rows = store.conn.execute("SELECT document_id FROM heal.embedding").fetchall()
        found = store.conn.execute("SELECT title FROM heal.find('common', 100)").fetchall()
    assert (len(rows), len(found)) == (ALL // 3, ALL // 3)


def test_without_any_list_all_is_as_before(store: SampleStore) -> None:
    load(store, {0: None})
    store.publish(store.generation("m"))
    assert store.conn.execute("SELECT heal.permitted()").fetchall() == [(None,)]
    with store.conn.transaction():
        store.conn.execute("SET LOCAL enable_seqscan = off")
        nearest = "SELECT chunk_id FROM heal.embedding ORDER BY embedding <=> '[1,0,0,0,0,0,0,0]' LIMIT 1"
        plan = store.conn.execute(f"EXPLAIN {nearest}").fetchall()
    assert any("Index Scan using vec_g000001_hnsw" in line for (line,) in plan), plan
    options = "SELECT reloptions FROM pg_class WHERE oid = 'heal.passages'::regclass"
    assert store.conn.execute(options).fetchall() == [(None,)]


def test_a_function_in_a_condition_sees_no_row_of_others(served: SampleStore) -> None:
    """A cheap function is called before dear conditions, so that a view without a barrier would give it all rows."""
    conn = served.conn
    conn.execute(
        "CREATE FUNCTION pg_temp.leak(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS "
        "$$ BEGIN RAISE NOTICE '%', t; RETURN true; END $$"
    )
    heard = list[str]()
    conn.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    be(conn, "alice")
    for view, column in (("passages", "title"), ("lineage", "title"), ("embedding", "document_id::text")):
        heard.clear()
        rows = conn.execute(f"SELECT {column} FROM heal.{view} WHERE pg_temp.leak({column})").fetchall()  # type: ignore[arg-type]
        assert sorted(heard) == sorted(row[0] for row in rows)
        assert len(heard) == len(allowed("alice"))
    conn.execute("UPDATE heal.document SET acl = NULL")
    conn.execute("CALL heal.guard_views()")
    options = "SELECT reloptions FROM pg_class WHERE oid = 'heal.passages'::regclass"
    assert conn.execute(options).fetchall() == [(None,)]


def test_row_security_limits_the_tables_and_not_the_pipeline(served: SampleStore) -> None:
    conn = served.conn
    conn.execute("CALL heal.row_security(true)")
    conn.execute("GRANT SELECT ON heal.document, heal.chunk TO heal_reader")
    counts = "SELECT (SELECT count(*) FROM heal.document), (SELECT count(*) FROM heal.chunk)"
    for role, principals, wanted in [
        ("heal_reader", (), len(allowed())),
        ("heal_reader", ("alice",), len(allowed("alice"))),
        ("heal_pipeline", (), ALL),
    ]:
        with conn.transaction():
            be(conn, *principals)
            conn.execute(f"SET LOCAL ROLE {role}")  # type: ignore[arg-type]
            assert conn.execute(counts).fetchall() == [(wanted, wanted)], role
    with conn.transaction():
        conn.execute("SET LOCAL ROLE heal_pipeline")
        load(served, {0: ["dora"]}, ALL + 5)  # new documents, and chunks
        conn.execute("SELECT heal.delete_document((SELECT min(document_id) FROM heal.document))")
    conn.execute("CALL heal.row_security(false)")
    conn.execute("SET ROLE heal_reader")
    assert conn.execute(counts).fetchall() == [(ALL + 5, ALL + 4)]


def test_a_deleted_document_is_like_one_that_never_was(served: SampleStore) -> None:
    conn, ids = served.conn, documents(served)
    conn.execute("CALL heal.row_security(true)")
    conn.execute("GRANT SELECT ON heal.document TO heal_reader")
    served.delete("d0", "d1")
    be(conn, "nobody")
    with conn.transaction():
        conn.execute("SET LOCAL ROLE heal_reader")
        for name in ("d0", "d1"):
            assert conn.execute("SELECT heal.may_read(%s)", (ids[name],)).fetchall() == [(False,)]
            assert conn.execute("SELECT FROM heal.document WHERE document_id = %s", (ids[name],)).rowcount == 0


def test_views_that_a_migration_replaces_are_barriers_again(store: SampleStore) -> None:
    load(store)
    barriers = (
        "SELECT relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace "
        "AND reloptions = '{security_barrier=true}' ORDER BY 1"
    )
    before = store.conn.execute(barriers).fetchall()
    assert [name for (name,) in before] == ["embedding", "lineage", "passages", "served_document"]
    for name in ("api_views.sql", "api_views_clients.sql"):
        store.conn.execute("UPDATE heal.schema_migration SET sha256 = '' WHERE name = %s", (name,))
        assert migrate(store.conn) == [name]
        assert store.conn.execute(barriers).fetchall() == before
