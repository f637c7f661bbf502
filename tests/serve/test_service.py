"""The rest of the service: searches, health, metrics, token, limits, and nothing to serve."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.serve.protocol import MAX_BODY_BYTES
from tests.serve.conftest import Running
from tests.serve.published import TEXTS, running

ROOT = Path(__file__).parents[2]
QUESTION = "Which rock comes from volcanoes?"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(("path", "key"), [("text", "question"), ("encoder", "text")])
def test_both_paths_search_as_sql_does(service: Running, path: str, key: str) -> None:
    reply = service.http.post("/v1/search", json={key: QUESTION, "path": path, "k": 2})
    assert reply.headers["x-heal-generation"] == "2"
    body = reply.json()
    assert (body["path"], body["generation"]) == (path, 2)
    if path == "text":
        rows = service.conn.execute("SELECT chunk_id, score FROM heal.find(%s, 2)", (QUESTION,)).fetchall()
    else:
        vector = service.second.encoder.encode([QUESTION], role="query")[0]
        statement = "SELECT chunk_id, score FROM heal.hybrid_search(%s, %s, 2, 2)"
        rows = service.conn.execute(statement, (QUESTION, vector)).fetchall()
    assert [(row["chunk_id"], pytest.approx(row["score"], abs=1e-5)) for row in body["data"]] == rows
    assert body["data"][0].items() >= {"text": TEXTS[2], "title": "", "relevance": None}.items()


def test_feedback_is_stored_and_taken_back(service: Running) -> None:
    (hit,) = service.http.post("/v1/search", json={"question": QUESTION, "k": 1}).json()["data"]
    vote = {"question": QUESTION, "chunk_id": hit["chunk_id"], "good": True, "user": "ann"}
    stored = "SELECT voter, question, good FROM heal.feedback"
    assert service.http.post("/v1/feedback", json=vote).json() == {"object": "feedback", "good": True}
    assert service.conn.execute(stored).fetchall() == [("ann", QUESTION, True)]
    assert service.http.post("/v1/feedback", json={**vote, "good": None}).status_code == 200
    assert service.conn.execute(stored).fetchall() == []
    for wrong, message in (
        ({"chunk_id": 1}, "there is no chunk 1"), ({"question": " "}, "the question has 0 characters"),
        ({"good": "maybe"}, "good: "), ({"user": ""}, "user: "), ({"rating": 5}, "rating: "),
    ):  # fmt: skip
        reply = service.http.post("/v1/feedback", json=vote | wrong)
        assert reply.status_code == 400
        assert message in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "more"), [("search", {}), ("search", {"path": "encoder"}), ("feedback", {"chunk_id": 1, "good": True})]
)
def test_half_an_emoji_in_a_question_is_no_error(service: Running, path: str, more: dict[str, object]) -> None:
    body = json.dumps({"question": "volcanic rock \ud83c", "principals": ["\ud83c"], **more})
    reply = service.http.post(f"/v1/{path}", content=body, headers=JSON)
    if path == "search":
        assert reply.json()["data"][0]["text"] == TEXTS[2]
    else:
        assert "there is no chunk 1" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["text", "encoder"])
def test_searches_are_filtered(service: Running, path: str) -> None:
    asked = {"question": "strings of a violin", "path": path, "filter": {"number": 0}, "language": "english"}
    found = service.http.post("/v1/search", json=asked).json()["data"]
    assert {row["text"] for row in found} <= {TEXTS[0]}
    reply = service.http.post("/v1/search", json={**asked, "filter": {"a": "\0"}})
    assert (reply.status_code, reply.json()["data"]) == (200, [])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"k": 0}, "k: "), ({"k": 1001}, "k: "), ({"topic": 99}, "generation 2 has no topic 99"),
        ({"language": "klingon"}, "no text search configuration"), ({"language": "a'b"}, "language: "),
        ({"filter": [1]}, "filter: "), ({"path": "words"}, "path: "), ({"limit": 3}, "limit: "),
        ({"text": "too"}, "text: "), ({"question": ""}, "question: "),
    ],
)  # fmt: skip
def test_wrong_searches_are_refused(service: Running, body: dict[str, object], message: str) -> None:
    reply = service.http.post("/v1/search", json={"question": QUESTION, **body})
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "message"),
    [
        ("POST", "/v1/embeddings", b'{"model": ', JSON, 400, "the body is no JSON"),
        ("POST", "/v1/embeddings", b"[]", JSON, 400, "send JSON"),
        ("POST", "/v1/embeddings", b"{}", {"content-type": "text/plain"}, 400, "send JSON"),
        ("POST", "/v1/embeddings", b"\xff\xfe", JSON, 400, ""),
        ("POST", "/v1/search", b"a" * (MAX_BODY_BYTES + 1), JSON, 413, "send fewer texts"),
        ("GET", "/v1/embeddings", b"", {}, 405, "GET /v1/embeddings"),
        ("GET", "/v2", b"", {}, 404, "GET /v2"),
    ],
)  # fmt: skip
def test_errors_have_one_form(
    service: Running, method: str, path: str, content: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    reply = service.http.request(method, path, content=content, headers=headers)
    assert reply.status_code == status, reply.text
    assert message in reply.json()["error"]["message"]


def test_a_name_that_leads_here_is_not_enough(service: Running) -> None:
    """A web page's own name for this address (DNS rebinding) is refused where there is no token."""
    for host in (
        "attacker.example",
        "attacker.example:80",
        "localhost.attacker.example",
        "localhost:1.attacker.example",
        "",
    ):
        reply = service.http.get("/healthz", headers={"host": host})
        assert reply.status_code == 400
        assert "set HEAL_SERVE_TOKEN" in reply.json()["error"]["message"]
    for host in ("localhost:1", "LocalHost", "127.0.0.1:8090", "127.0.1.1", "[::1]", "[::1]:8090"):
        assert service.http.get("/healthz", headers={"host": host}).status_code == 200


def test_metrics_count(service: Running) -> None:
    def numbers() -> dict[str, float]:
        reply = service.http.get("/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = [line for line in reply.text.splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r'[a-z_]+(\{(\w+="[^"]*",?)+\})? [0-9.]+', line) for line in lines)
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    service.http.get("/metrics")
    before = numbers()
    for body in ({"model": "heal-active", "input": ["a", "b", "c"]}, {"model": "none", "input": "a"}):
        service.http.post("/v1/embeddings", json=body)
    after = numbers()
    path = 'path="/v1/embeddings"'
    for name, more in {
        f'heal_serve_requests_total{{{path},status="200"}}': 1,
        f'heal_serve_requests_total{{{path},status="404"}}': 1,
        f"heal_serve_errors_total{{{path}}}": 1,
        'heal_serve_texts_total{role="query"}': 3,
        f"heal_serve_seconds_count{{{path}}}": 2,
        f'heal_serve_seconds_bucket{{{path},le="+Inf"}}': 2,
        "heal_serve_batch_texts_count": 1,
        "heal_serve_batch_texts_sum": 3,
        'heal_serve_batch_texts_bucket{le="2"}': 0,
        'heal_serve_batch_texts_bucket{le="4"}': 1,
    }.items():
        assert after[name] - before.get(name, 0) == more, name
    assert after["heal_serve_generation"] == 2


def test_nothing_live_is_said_with_the_cure(settings: Settings) -> None:
    with running(settings) as url:
        for method, path, body in (
            ("GET", "/healthz", None),
            ("POST", "/v1/embeddings", {"model": "heal-active", "input": "x"}),
            ("POST", "/v1/search", {"question": "x"}),
            ("POST", "/v1/search", {"question": "x", "path": "encoder"}),
        ):
            for _ in range(200):  # until the database has been asked for the first time
                reply = httpx2.request(method, url + path, json=body)
                if "being loaded" not in reply.text:
                    break
                time.sleep(0.1)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
            assert "no generation is active yet; run the heal_realign DAG" in reply.json()["error"]["message"]
        assert httpx2.get(f"{url}/v1/models").json()["data"] == []
        assert "heal_serve_generation" not in httpx2.get(f"{url}/metrics").text


def test_with_a_token_nothing_but_health_is_open(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    secret = "s3cret-token"
    with running(settings.model_copy(update={"serve_token": load_settings(serve_token=secret).serve_token})) as url:
        for header in ({}, {"authorization": f"Bearer {secret}x"}, {"authorization": secret}):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/"):
                reply = httpx2.get(url + path, headers=header)
                assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
                assert reply.headers["www-authenticate"] == "Bearer"
        health = httpx2.get(f"{url}/healthz")
        assert (health.status_code, health.headers["retry-after"]) == (503, "2")
        assert health.json()["error"]["message"].startswith("no generation is served yet; the log")
        allowed = httpx2.get(f"{url}/v1/models", headers={"authorization": f"Bearer {secret}", "host": "heal.example"})
        assert allowed.status_code == 200
    assert secret not in caplog.text


def test_others_are_served_only_with_a_token(settings: Settings) -> None:
    command = [sys.executable, "-m", "heal_tasks", "serve", "--host", "0.0.0.0"]
    environment = child_environment(
        HEAL_VAR_DIR=str(settings.var_dir), HEAL_DATABASE_URL=settings.require_database_url(), HEAL_SERVE_TOKEN=""
    )
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: --host 0.0.0.0 can be reached by others: set HEAL_SERVE_TOKEN" in done.stderr
