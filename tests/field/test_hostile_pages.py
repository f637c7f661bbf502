"""Hostile parameters over real HTTP: every one is answered with 2xx or a sentence and 4xx, and the pages go on."""

import json
from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx2
import pytest

from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.store.db import connect
from tests.serve.published import add_documents, publish, running, served, wait_until_ready

NUMBERS = (str(1 << 63), str(1 << 64), "1" + "0" * 5000, "-1", "0", "1.5", "1e9", "NaN", "true", "x", '""')
TEXTS = (
    "x\0y", "\0", "é\0", "\ud800", "\udfff x", "\ufffe", "a" * 40_000, "' OR 1=1 --", "%s %(x)s", "{0}", "\r\nX: 1",
    "../../etc", "\x01\x7f", "\U0001d518" * 300,
)  # fmt: skip


@pytest.fixture(scope="module")
def live(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    settings = load_settings(var_dir=tmp_path_factory.mktemp("var"), database_url=module_database_url)
    with connect(module_database_url, autocommit=True) as conn:
        add_documents(conn)
        publish(conn, settings.model, lexicon_weight=0.5)
        yield settings


@pytest.fixture(scope="module")
def service(live: Settings) -> Iterator[httpx2.Client]:
    with running(live) as url, httpx2.Client(base_url=url, timeout=60) as client:
        wait_until_ready(url)
        yield client


@pytest.fixture
def pages(
    live: Settings, airflow_user: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx2.Client]:
    """The pages of the plugin, for a user who is logged in."""
    import heal_reports

    airflow_user("viewer")
    monkeypatch.setenv("HEAL_VAR_DIR", str(live.var_dir))
    monkeypatch.setenv("HEAL_DATABASE_URL", live.require_database_url())
    with served(heal_reports.application, lifespan="off") as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def encoded(text: str) -> str:
    """A text as a query parameter, half a surrogate pair as the bytes that some programs make of it."""
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.mark.parametrize("text", TEXTS)
def test_a_report_that_cannot_be_there_is_not_found(pages: httpx2.Client, text: str) -> None:
    answer = pages.get(f"/report?run_id={encoded(text)}")
    assert answer.status_code == 404
    assert "There is no run" in answer.text
    assert len(answer.text) < 1000
    assert pages.get(f"/runs?before={encoded(text)}").status_code == 200


def test_a_database_that_refuses_is_no_failure_of_the_page(pages: httpx2.Client, live: Settings) -> None:
    with connect(live.require_database_url(), autocommit=True) as conn:
        conn.execute("ALTER TABLE heal.run RENAME COLUMN verdict TO other")
        try:
            answer = pages.get("/runs")
        finally:
            conn.execute("ALTER TABLE heal.run RENAME COLUMN other TO verdict")
    assert (answer.status_code, answer.text) == (
        503,
        '{"detail":"schema heal is missing or older than this; run `python -m heal_tasks migrate`"}',
    )


def bodies() -> Iterator[tuple[str, str]]:
    """Requests: hostile texts and numbers in every field, models that cannot be, bodies that are no objects."""
    for text in map(json.dumps, TEXTS):
        for field in (
            f'"question": {text}', f'"question": {text}, "path": "encoder"', f'"question": "x", "language": {text}',
            f'"question": "x", "path": {text}', f'"question": "x", "filter": {{{text}: 1}}',
            f'"question": "x", "filter": {{"a": [{{"b": {text}}}]}}', f'"question": "x", {text}: 1',
        ):  # fmt: skip
            yield "/v1/search", f"{{{field}}}"
        for field in (
            f'"model": {text}, "input": "x"', f'"input": {text}', f'"input": ["x", {text}]',
            f'"input": "x", "encoding_format": {text}', f'"input": "x", "input_type": {text}',
            f'"input": "x", "user": {text}',
        ):  # fmt: skip
            yield "/v1/embeddings", f'{{"model": "heal-active", {field}}}'
    for number in (*NUMBERS, "1e400", "-1e400", "-0", "1e-400", "Infinity", "null", "[]", "{}"):
        for name in ("k", "topic", "filter", "question", "language"):
            yield "/v1/search", f'{{"question": "x", "{name}": {number}}}'
        for path in ("text", "encoder"):
            yield "/v1/search", f'{{"question": "x", "path": "{path}", "filter": {{"number": {number}}}}}'
        for name in ("dimensions", "model", "input"):
            yield "/v1/embeddings", f'{{"model": "heal-active", "input": "x", "{name}": {number}}}'
    for model in ("heal-g999999999999999999", "heal-g000000", "heal-g1:query", "heal-g\u0661", "heal-active:"):
        yield "/v1/embeddings", f'{{"model": "{model}", "input": "x"}}'
    for body in ("", "[]", "null", "{", "\xff", '{"question": "x"}' * 2, "[" * 100_000 + "]" * 100_000):
        yield from (("/v1/search", body), ("/v1/embeddings", body))
    for depth in (34, 900, 100_000):
        yield "/v1/search", '{"question": "x", "filter": ' + '{"a":' * depth + "1" + "}" * (depth + 1)
        yield "/v1/search", '{"question": "x", "filter": {"a": ' + "[" * depth + "]" * depth + "}}"


def test_no_request_makes_the_service_fail(service: httpx2.Client) -> None:
    for path, body in bodies():
        raw, headers = body.encode("utf-8", "surrogatepass"), {"content-type": "application/json"}
        answer = service.post(path, content=raw, headers=headers)
        assert answer.status_code < 500, (path, body[:200], answer.text)
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"], (path, body[:200])
    assert service.get("/healthz").status_code == 200


def test_a_filter_as_deep_as_people_write_is_taken(service: httpx2.Client) -> None:
    nested: object = 1
    for _ in range(32):
        nested = {"a": nested}
    assert service.post("/v1/search", json={"question": "x", "filter": nested}).status_code == 200
    refused = service.post("/v1/search", json={"question": "x", "filter": {"a": nested}})
    assert (refused.status_code, "deeper than 32" in refused.text) == (400, True)
