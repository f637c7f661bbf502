"""The client searches as the person whose principals it is given, and as nobody else next."""

from collections.abc import Callable, Iterator, Sequence

import pytest

from heal_tasks.client import Client
from heal_tasks.core.errors import InputError
from heal_tasks.core.ids import document_id
from heal_tasks.core.types import Record
from heal_tasks.store.db import Connection
from tests.client.test_client import planted
from tests.store.sample_store import SOURCE, SampleStore, chunker, encode

NAMES = ["cn=alice, dc=x", "group:x"]

Ask = Callable[[Client, Sequence[str] | None], list[int]]


@pytest.fixture
def client(auto: Connection, database_url: str) -> Iterator[Client]:
    store = SampleStore(auto)
    records = [
        Record("all", "T", "text of all"), Record("alice", "T", "text of alice", {"acl": [NAMES[0]]}),
        Record("x", "T", "text of x", {"acl": ["group:x"]}), Record("nobody", "T", "text of nobody", {"acl": []}),
    ]  # fmt: skip
    store.documents.apply_records(SOURCE, records, chunker)
    store.publish(store.generation("m"))
    with Client(database_url, encoder=planted) as made:
        yield made


WAYS: dict[str, Ask] = {
    "find": lambda client, names: [hit.document_id for hit in client.find("text of", principals=names)],
    "search": lambda client, names: [hit.document_id for hit in client.search("text", principals=names)],
    "search by vector": lambda client, names: [
        hit.document_id for hit in client.search(encode(["text"])[0], generation_id=1, principals=names)
    ],
    "hybrid": lambda client, names: [hit.document_id for hit in client.hybrid_search("text", principals=names)],
    "similar": lambda client, names: [
        document_id(SOURCE, "all"),
        *(hit.document_id for hit in client.similar(document_id(SOURCE, "all"), principals=names)),
    ],
}


def test_a_vote_is_of_one_person(client: Client, auto: Connection) -> None:
    ((chunk,),) = auto.execute("SELECT chunk_id FROM heal.chunk WHERE text = 'text of alice'").fetchall()
    for principals in (None, [], ["group:x"]):
        with pytest.raises(InputError, match=f"there is no chunk {chunk}"):
            client.feedback("which?", chunk, True, principals=principals)
    client.feedback("which?", chunk, True, principals=NAMES)


@pytest.mark.parametrize("way", WAYS)
def test_each_search_is_of_one_person(client: Client, way: str) -> None:
    keys = {name: document_id(SOURCE, name) for name in ("all", "alice", "x", "nobody")}
    for principals, wanted in [
        (None, {"all"}), (NAMES, {"all", "alice", "x"}), (None, {"all"}), ([], {"all"}), (["group:x"], {"all", "x"}),
    ]:  # fmt: skip
        assert set(WAYS[way](client, principals)) == {keys[name] for name in wanted}


def test_a_text_is_no_list_of_principals(client: Client) -> None:
    for way in WAYS.values():
        with pytest.raises(InputError, match="principals must be a list of texts, got the text 'alice'"):
            way(client, "alice")
