"""Searches over HTTP for a person: the caller names the principals, in each request."""

import pytest

from tests.serve.conftest import Running
from tests.serve.published import TEXTS

QUESTION = "Which rock comes from volcanoes?"


@pytest.mark.parametrize("path", ["text", "encoder"])
def test_a_request_finds_what_its_principals_may_read(service: Running, path: str) -> None:
    def found(**fields: object) -> set[str]:
        reply = service.http.post("/v1/search", json={"question": QUESTION, "path": path, "k": 100, **fields})
        assert reply.status_code == 200
        return {row["text"] for row in reply.json()["data"]}

    everything = found()
    assert TEXTS[2] in everything
    service.conn.execute(
        "UPDATE heal.document d SET acl = '{alice}' FROM heal.chunk c "
        "WHERE c.document_id = d.document_id AND c.text = %s",
        (TEXTS[2],),
    )
    try:
        assert found(principals=["bob", "alice"]) == everything
        assert found() == found(principals=[]) == found(principals=["bob"]) == everything - {TEXTS[2]}
    finally:
        service.conn.execute("UPDATE heal.document SET acl = NULL")


def test_a_vote_is_on_what_its_principals_may_read(service: Running) -> None:
    ((chunk,),) = service.conn.execute("SELECT chunk_id FROM heal.chunk WHERE text = %s", (TEXTS[2],)).fetchall()
    service.conn.execute(
        "UPDATE heal.document d SET acl = '{alice}' FROM heal.chunk c "
        "WHERE c.document_id = d.document_id AND c.chunk_id = %s",
        (chunk,),
    )

    def vote(**fields: object) -> int:
        given = {"question": QUESTION, "chunk_id": chunk, "good": True, **fields}
        return service.http.post("/v1/feedback", json=given).status_code

    try:
        assert [vote(), vote(principals=["bob"]), vote(principals=["bob", "alice"])] == [400, 400, 200]
    finally:
        service.conn.execute("UPDATE heal.document SET acl = NULL")
        service.conn.execute("DELETE FROM heal.feedback")


@pytest.mark.parametrize("principals", ["alice", [1], {"a": 1}])
def test_principals_are_a_list_of_texts(service: Running, principals: object) -> None:
    reply = service.http.post("/v1/search", json={"question": QUESTION, "principals": principals})
    assert reply.status_code == 400
    assert "principals" in reply.json()["error"]["message"]
