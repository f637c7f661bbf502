"""POST /v1/embeddings and GET /v1/models: OpenAI's protocol, asked with OpenAI's client and without it."""

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest

from heal_tasks.serve.batching import MAX_BATCH, Batcher
from heal_tasks.serve.protocol import MAX_CHARS, MAX_TEXTS, model_name
from heal_tasks.training.encoder import Role
from tests.serve.conftest import Running

QUESTION = "Which rock comes from volcanoes?"
UNKNOWN = "xyzzy quux"


def post(service: Running, **body: Any) -> Any:
    return service.http.post("/v1/embeddings", json={"model": "heal-active", "input": QUESTION, **body})


def vectors(reply: Any) -> np.ndarray:
    return np.array([item["embedding"] for item in reply.json()["data"]])


def test_queries_have_the_lexicon_as_in_sql(service: Running) -> None:
    reply = service.openai.embeddings.with_raw_response.create(model="heal-active", input=[QUESTION, UNKNOWN])
    assert reply.headers["x-heal-generation"] == "2"
    made = reply.parse()
    assert (made.model, made.object, [item.index for item in made.data]) == ("heal-g000002", "list", [0, 1])
    assert made.usage.prompt_tokens == made.usage.total_tokens > 8
    asked, unknown = (np.array(item.embedding) for item in made.data)
    np.testing.assert_allclose(asked, service.second.query_vector(service.conn, QUESTION), atol=1e-5)
    plain = service.second.encoder.encode([QUESTION, UNKNOWN], role="query")
    assert asked @ plain[0] < 0.999, "the lexicon moves a question whose words it has"
    np.testing.assert_allclose(unknown, plain[1], atol=1e-5)


def test_base64_and_floats_are_the_same_numbers(service: Running) -> None:
    floats, coded = post(service), post(service, encoding_format="base64").json()["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), vectors(floats)[0].astype("<f4"))
    nulls = post(service, encoding_format=None, dimensions=None, input_type=None, user=None)
    np.testing.assert_array_equal(vectors(nulls), vectors(floats))


@pytest.mark.parametrize(
    "asked", [{"model": "heal-active:document"}, {"input_type": "document"}, {"model": "heal-g000002:document"}]
)
def test_documents_are_encoded_as_stored(service: Running, asked: dict[str, str]) -> None:
    ((text, stored),) = service.conn.execute(
        "SELECT c.text, e.embedding FROM heal.embedding e JOIN heal.chunk c USING (chunk_id) ORDER BY 1 LIMIT 1"
    ).fetchall()
    np.testing.assert_allclose(vectors(post(service, input=text, **asked))[0], stored.to_numpy(), atol=1e-5)


def test_a_client_can_pin_the_generation_before(service: Running) -> None:
    reply = post(service, model="heal-g000001", dimensions=48)
    assert (reply.headers["x-heal-generation"], reply.json()["model"]) == ("1", "heal-g000001")
    expected = service.first.query_vector(service.conn, QUESTION)
    np.testing.assert_allclose(vectors(reply)[0], expected, atol=1e-5)
    rows = service.conn.execute("SELECT * FROM heal.search(%s, 1, 3)", (vectors(reply)[0],)).fetchall()
    assert len(rows) == 3


def test_models_are_listed(service: Running) -> None:
    assert {item.id for item in service.openai.models.list()} == {
        name + suffix for name in ("heal-active", model_name(1), model_name(2)) for suffix in ("", ":document")
    }


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"input": [1, 2]}, 400, "input", "token ids are not taken"),
        ({"input": [[1, 2], [3]]}, 400, "input", "check_embedding_ctx_length=False"),
        ({"input": []}, 400, "input", "at least one"),
        ({"input": ["a", ""]}, 400, "input", "input 1 is not a text of 1 to"),
        ({"input": ["a", None]}, 400, "input", "input 1 is not a text"),
        ({"input": "a" * (MAX_CHARS + 1)}, 400, "input", "input 0 is not a text"),
        ({"input": ["a"] * (MAX_TEXTS + 1)}, 400, "input", f"at most {MAX_TEXTS}"),
        ({"input": None}, 400, "input", "give a text"),
        ({"dimensions": 48}, 400, "dimensions", "has 384, and no other number"),
        ({"encoding_format": "hex"}, 400, "encoding_format", "base64"),
        ({"input_type": "passage"}, 400, "input_type", "document"),
        ({"model": "heal-active:query", "input_type": "document"}, 400, None, "contradict"),
        ({"model": "text-embedding-3-small"}, 404, "model", "there are: heal-active"),
        ({"model": "heal-g000003"}, 404, "model", "heal-g000002"),
        ({"model": None}, 400, "model", "string"),
    ],
)
def test_wrong_requests_are_refused_with_the_reason(
    service: Running, body: dict[str, Any], status: int, param: str | None, message: str
) -> None:
    reply = post(service, **body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param)
    assert message in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


def test_the_client_of_openai_understands_the_errors(service: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'ada'") as caught:
        service.openai.embeddings.create(model="ada", input="x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_texts_that_postgres_cannot_store_are_encoded(service: Running) -> None:
    body = b'{"model": "heal-active", "input": "rock\\u0000 \\ud800 volcano"}'
    reply = service.http.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 200, reply.text


class CountingEncoder:
    """Encodes a text as its length; texts ``bad`` fail the whole batch."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def encode(self, texts: list[str], *, role: Role) -> np.ndarray:
        self.batches.append(texts)
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[len(text)] for text in texts], dtype=np.float32)


def test_requests_that_wait_together_are_one_batch_and_fail_alone() -> None:
    sizes: list[int] = []
    batcher, encoder = Batcher(sizes.append), CountingEncoder()
    texts = ["a" * length for length in range(1, 31)]

    def ask(text: str) -> object:
        try:
            return batcher.encode(encoder, [text], "query")[0, 0]  # type: ignore[arg-type]
        except ValueError as error:
            return str(error)

    all_wait = threading.Event()
    batcher._worker.submit(all_wait.wait, 30)  # holds the encoder's thread
    with ThreadPoolExecutor(32) as clients:
        pending = clients.map(ask, [*texts, "bad"])
        deadline = time.monotonic() + 30
        while len(batcher._waiting) < 31 and time.monotonic() < deadline:
            time.sleep(0.001)
        all_wait.set()
        answers = list(pending)
    assert answers == [*range(1, 31), "bad"]
    assert len(encoder.batches[0]) == 31
    many = batcher.encode(encoder, ["a"] * (2 * MAX_BATCH + 1), "document")  # type: ignore[arg-type]
    assert many.shape == (2 * MAX_BATCH + 1, 1)
    assert sizes[-3:] == [MAX_BATCH, MAX_BATCH, 1]
    batcher.close()
