"""Request fields that a server understands: the capability probe, ignored schemas, unknown fields."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from heal_tasks.core.errors import SettingsError
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error, queries
from tests.questions.llm_writers import SOON, always, by_chunk, chunk, chunks, one, statuses, tokens, writer


def modes(fake: FakeOpenAI) -> list[str]:
    return [request.body.get("response_format", {}).get("type", "text") for request in fake.requests]


def _ignores_schemas(*, json_object: bool) -> Callable[[Request], Reply]:
    def rule(request: Request) -> Reply:
        is_object = request.body["response_format"]["type"] == "json_object"
        content = '{"sea": "blue"}' if not is_object or json_object else '```json\n{"sea": "blue"}\n```'
        return completion(content, usage=(19, 9))

    return rule


@pytest.mark.parametrize(("json_object", "mode"), [(True, "json_object"), (False, "text")])
def test_the_probe_detects_a_server_that_ignores_schemas(json_object: bool, mode: str) -> None:
    with FakeOpenAI(probe_rule=_ignores_schemas(json_object=json_object)) as fake:
        results = list(writer(fake)(chunks(6)))
    assert modes(fake) == [mode] * 6
    assert len(fake.probes) == 2
    assert tokens(results) == (fake.input_tokens, fake.output_tokens)
    assert sorted(len(written.calls) for written in results) == [1, 1, 1, 1, 1, 3]


def test_the_probe_cannot_be_guessed_from_its_prompt() -> None:
    with FakeOpenAI() as fake:
        for _ in range(2):
            list(writer(fake)([chunk(1)]))
    schemas = [probe.body["response_format"]["json_schema"]["schema"] for probe in fake.probes]
    assert schemas[0] != schemas[1]
    for probe, schema in zip(fake.probes, schemas, strict=True):
        ((key, value),) = schema["properties"].items()
        assert schema["required"] == [key]
        assert key not in json.dumps(probe.body["messages"])
        assert value["enum"][0] not in json.dumps(probe.body["messages"])


def test_no_chunk_no_probe() -> None:
    with FakeOpenAI() as fake:
        assert list(writer(fake)([])) == []
    assert not fake.probes


def test_what_the_probe_learns_about_fields_holds_for_the_chunks() -> None:
    def rule(request: Request) -> Reply | None:
        return error(400, "'max_tokens' is not known") if "max_tokens" in request.body else None

    with FakeOpenAI(rule, rule) as fake:
        list(writer(fake)([chunk(1), chunk(2)]))
    assert (len(fake.probes), len(fake.requests)) == (2, 2)


def test_a_failed_probe_fails_the_first_chunk_and_the_rest_is_asked() -> None:
    with FakeOpenAI(probe_rule=always(error(500, "starting", **SOON))) as fake:
        results = list(writer(fake)(chunks(5)))
    assert by_chunk(results) == {
        0: "failed", 1: "ok", 2: "ok", 3: "ok", 4: "ok",
    }  # fmt: skip
    assert modes(fake) == ["json_schema"] * 4


def test_tokens_of_a_denied_probe_are_reported() -> None:
    def rule(request: Request) -> Reply | None:
        is_object = request.body["response_format"]["type"] == "json_object"
        return error(401, "expired") if is_object else completion("{}", usage=(19, 9))

    results = []
    with FakeOpenAI(probe_rule=rule) as fake, pytest.raises(SettingsError, match="expired"):
        for written in writer(fake)([chunk(1), chunk(2)]):
            results.append(written)
    assert tokens(results) == (19, 9) == (fake.input_tokens, fake.output_tokens)


def _older_server(*, json_object: bool) -> Any:
    def rule(request: Request) -> Reply | None:
        kind = request.body.get("response_format", {}).get("type", "text")
        if kind == "json_schema" or (kind == "json_object" and not json_object):
            return error(400, f"response_format {kind} is not supported")
        return (
            None if json_object else completion(f"Sure:\n```json\n{json.dumps(queries(request.passage))}\n```\nDone.")
        )

    return rule


@pytest.mark.parametrize("json_object", [True, False])
def test_a_server_without_json_schema_is_asked_with_simpler_fields_from_then_on(json_object: bool) -> None:
    rule = _older_server(json_object=json_object)
    with FakeOpenAI(
        rule, lambda request: refusal if (refusal := rule(request)) and refusal.status == 400 else None
    ) as fake:
        results = list(writer(fake, concurrency=1)(chunks(4)))
    assert [statuses(written) for written in results] == [["ok", "ok"], ["ok"], ["ok"], ["ok"]]
    assert all(len(written.value) == 3 for written in results)
    assert len(fake.requests) == 4
    assert len(fake.probes) == (2 if json_object else 3)


def test_a_server_that_refuses_the_schema_of_chunks_only_is_asked_with_simpler_fields_from_then_on() -> None:
    with FakeOpenAI(_older_server(json_object=False)) as fake:
        results = list(writer(fake, concurrency=1)(chunks(4)))
    assert [written.status for written in results] == ["ok"] * 4
    assert len(fake.requests) == 6


def test_fields_the_server_names_are_changed() -> None:
    def rule(request: Request) -> Reply | None:
        if "max_tokens" in request.body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return error(400, "'temperature' does not support 0.7") if "temperature" in request.body else None

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake, concurrency=1)([chunk(1), chunk(2)]))
    assert [written.status for written in results] == ["ok", "ok"]
    assert fake.requests[-1].body["max_completion_tokens"] == 2048
    assert fake.requests[-1].body["response_format"]["type"] == "json_schema"
    assert len(fake.requests) == 4


def test_a_request_refused_in_every_dialect_fails_its_chunk() -> None:
    with FakeOpenAI(lambda request: error(400, "never")) as fake:
        written = one(fake)
    assert statuses(written) == ["failed"]
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "Input is too big.", code="context_length_exceeded"),
        error(400, "This model's maximum context length is 4096 tokens, and max_tokens is 2048."),
        Reply({"error": {"code": 400, "type": "exceed_context_size_error", "message": "x", "n_ctx": 1024}}, 400),
    ],
    ids=["OpenAI", "vLLM", "llama.cpp"],
)
def test_a_chunk_that_is_too_long_is_sent_once(refusal: Reply) -> None:
    with FakeOpenAI(lambda request: refusal) as fake:
        assert statuses(one(fake)) == ["failed"]
    assert len(fake.requests) == 1
