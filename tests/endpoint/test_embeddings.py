"""The embeddings endpoint: every text gets its own vector and is paid for once, whatever goes wrong on the way."""

import itertools
import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from heal_tasks.core.errors import HealError, RetryableError, SettingsError
from heal_tasks.endpoint.embeddings import BATCH_CHARS, BATCH_TEXTS, EmbeddingEndpoint
from heal_tasks.endpoint.endpoint import EMBEDDINGS, EndpointConfig
from tests.fake_embeddings import FAULTS, LOST, REFUSED, FakeEmbeddings, planted

KEY = "sk-not-to-be-shown"


def texts(count: int) -> list[str]:
    return [f"text number {number} about {'valves ' * (number % 7)}" for number in range(count)]


def open_endpoint(server: FakeEmbeddings, **options: int) -> EmbeddingEndpoint:
    config = EndpointConfig(
        server.base_url, KEY, "small", timeout_s=20, max_retries=2, backoff_s=0.01, patience_s=1, wording=EMBEDDINGS
    )
    return EmbeddingEndpoint(config, **options)


Found = tuple[dict[str, NDArray[np.float32]], list[str], list[str]]


def embed(endpoint: EmbeddingEndpoint, wanted: list[str]) -> Found:
    """Vectors by text, statuses of the calls, texts that were refused."""
    found, statuses, refused = dict[str, NDArray[np.float32]](), list[str](), list[str]()
    for part in endpoint.embed(wanted):
        assert not set(part.rows) & set(part.refused)
        found.update((wanted[row], vector) for row, vector in zip(part.rows, part.vectors, strict=True))
        statuses += [call.status for call in part.calls]
        refused += [wanted[row] for row in part.refused]
    return found, statuses, refused


def test_a_fault_in_every_call_loses_no_text_and_pays_none_twice() -> None:
    wanted, kinds = texts(1000), itertools.cycle(FAULTS)
    with FakeEmbeddings(rule=lambda _, attempt: next(kinds) if attempt == 0 else None) as server:
        found, statuses, refused = embed(open_endpoint(server), wanted)
    assert not refused
    assert server.paid == dict.fromkeys(wanted, 1)
    np.testing.assert_allclose(np.stack([found[text] for text in wanted]), planted(wanted), atol=1e-6)
    assert statuses.count("ok") == -(-len(wanted) // BATCH_TEXTS)
    assert "invalid" in statuses


@pytest.mark.parametrize("fault", sorted({*FAULTS} - {"other lengths"}))
def test_a_fault_that_stays_is_an_error_or_a_refusal(fault: str) -> None:
    with FakeEmbeddings(rule=lambda *_: fault) as server:
        try:
            found, statuses, refused = embed(open_endpoint(server), ["one", "two"])
        except RetryableError as error:
            assert fault in (*REFUSED, *LOST)
            assert KEY not in str(error)
            return
    assert (found, sorted(refused)) == ({}, ["one", "two"])
    assert set(statuses) == {"invalid"}


def test_requests_are_bounded_and_a_refused_text_costs_no_other_its_vector() -> None:
    wanted = [*texts(100), "poison", "x" * BATCH_CHARS, "y" * 10]

    def rule(asked: list[str], attempt: int) -> tuple[int, str] | None:
        return (400, '{"error": {"message": "unprintable", "code": "invalid_input"}}') if "poison" in asked else None

    with FakeEmbeddings(rule=rule) as server:
        found, _, refused = embed(open_endpoint(server), wanted)
    assert refused == ["poison"]
    assert found.keys() == set(wanted) - {"poison"}
    assert max(len(body["input"]) for body in server.bodies) <= BATCH_TEXTS
    assert max(sum(map(len, body["input"])) for body in server.bodies) <= BATCH_CHARS


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "context_length_exceeded", "maximum context length is 8192 tokens"),
        (500, 500, "input (992 tokens) is too large to process. increase the physical batch size (current: 512)"),
    ],
)
def test_a_text_that_is_too_long_is_cut_until_it_fits(status: int, code: object, message: str) -> None:
    def rule(asked: list[str], attempt: int) -> tuple[int, str] | None:
        error = json.dumps({"error": {"message": message, "code": code, "type": "server_error"}})
        return (status, error) if max(map(len, asked)) > 1000 else None

    with FakeEmbeddings(rule=rule) as server:
        parts = list(open_endpoint(server).embed(["short", "long " * 1000]))
    assert sorted(row for part in parts for row in part.rows) == [0, 1]
    (cut,) = (text for text in server.paid if text != "short")
    assert 700 < len(cut) <= 1000
    assert ("long " * 1000).startswith(cut)


def test_the_number_of_dimensions_is_asked_for() -> None:
    with FakeEmbeddings() as server:
        found, *_ = embed(open_endpoint(server, dimensions=3), ["a"])
    assert found["a"].shape == (3,)
    assert np.linalg.norm(found["a"]) == pytest.approx(1)
    refusal = (
        400,
        '{"error": {"message": "the model does not support it", "param": "dimensions"}}',
    )
    with FakeEmbeddings(rule=lambda *_: refusal) as server, pytest.raises(SettingsError, match="HEAL_DIMENSIONS=3"):
        embed(open_endpoint(server, dimensions=3), ["a"])


def test_vectors_of_another_length_than_those_so_far_are_useless() -> None:
    with FakeEmbeddings(rule=lambda _, attempt: "other lengths" if not attempt else None) as server:
        found, statuses, _ = embed(open_endpoint(server, length=8), ["one"])
        assert (found["one"].shape, statuses) == ((8,), ["invalid", "ok"])
        server.rule = lambda *_: None
        assert embed(open_endpoint(server, length=9), ["two"]) == ({}, ["invalid"] * 3, ["two"])


def test_a_server_without_base64_is_asked_for_numbers() -> None:
    formats = list[str]()

    def rule(asked: list[str], attempt: int) -> tuple[int, str] | None:
        formats.append(server.bodies[-1]["encoding_format"])
        return (422, '{"detail": "encoding_format: unknown value base64"}') if formats[-1] == "base64" else None

    with FakeEmbeddings(rule=rule) as server:
        found, *_ = embed(open_endpoint(server, concurrency=1), texts(200))
    assert len(found) == 200
    assert formats == ["base64", "float", "float", "float", "float"]


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        ((401, '{"error": {"message": "bad key"}}'), SettingsError, "HEAL_EMBED_API_KEY"),
        ((404, '{"error": {"message": "no such model"}}'), SettingsError, "HEAL_MODEL"),
        ((402, '{"error": {"message": "no balance"}}'), SettingsError, "credit"),
        ((200, "<!doctype html><title>Sign in</title>"), SettingsError, "HEAL_EMBED_BASE_URL"),
        ((302, ""), SettingsError, "HEAL_EMBED_BASE_URL"),
        ((503, "busy"), RetryableError, "again later"),
    ],
)
def test_an_endpoint_that_cannot_be_used_ends_it_with_the_cure(
    reply: tuple[int, str], kind: type[HealError], words: str
) -> None:
    with FakeEmbeddings(rule=lambda *_: reply) as server, pytest.raises(kind, match=words) as raised:
        embed(open_endpoint(server), texts(2000))
    assert KEY not in str(raised.value)
    assert len(server.bodies) < 40, "it went on asking"


def test_all_that_was_paid_is_given_before_an_error() -> None:
    def rule(good: int) -> Callable[[list[str], int], tuple[int, str] | None]:
        served = itertools.count()
        return lambda asked, attempt: None if next(served) < good else (401, '{"error": {"message": "key expired"}}')

    wanted, found = texts(1000), set[int]()
    with FakeEmbeddings(rule=rule(5)) as server, pytest.raises(SettingsError, match="are kept"):
        for part in open_endpoint(server).embed(wanted):
            found |= set(part.rows)
    assert {wanted[row] for row in found} == set(server.paid)
    assert len(found) == 5 * BATCH_TEXTS
