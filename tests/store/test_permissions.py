"""Who may see: no search function and no view shows a document to a session that is not on its list."""

import pytest

from heal_tasks.core.types import Record
from heal_tasks.store.db import Connection
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


@pytest.fixture(params=[0, 1000], ids=["index", "exact"])
def served(store: SampleStore, request: pytest.FixtureRequest) -> SampleStore:
    load(store)
    store.publish(store.generation("m"), exact_rows=request.param)
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
