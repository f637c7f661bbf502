"""Step embed_base over the Batch API, against a real Postgres and HTTP server: every vector, no text paid twice."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heal_tasks.core.errors import RetryableError, StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record
from heal_tasks.questions.llm.batch_api import BatchApi
from heal_tasks.steps.engine.dry_run import Calls, make_plan
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.engine.runner import Waiting
from heal_tasks.steps.vectors import embedding_batches
from heal_tasks.steps.vectors.embedding_batches import sends_batches
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.llm.batches import BatchRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.fake_batches import FakeBatches, Job, expire_half, row
from tests.fake_embeddings import FakeEmbeddings, planted, tokens
from tests.fake_openai import Reply, error
from tests.steps.asking import number

NUMBER, CHUNKS, TEXTS = 40, 50, 41
PRICE = 1000.0


def batching(settings: Settings, server: FakeEmbeddings, **changes: Any) -> Settings:
    values: dict[str, Any] = {"llm_batch": "on", "embed_usd_per_million": PRICE, **changes}
    return load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(), model="openai:small",
        embed_base_url=server.base_url, **values,
    )  # fmt: skip


def add(conn: Connection, numbers: range = range(NUMBER)) -> None:
    """Documents with a text of their own; the first ten have a second chunk, the same in all."""
    records = [Record(str(item), "T", f"Valve {item:03d} of the works.") for item in numbers]
    DocumentRepository(conn).apply_records(
        "s", records, lambda title, text: [("", text), ("", "The same end.")][: 1 + (text < "Valve 010")]
    )


def embed(settings: Settings, run_id: str = "r1", shard: int = 0, shards: int = 1, **refs: str) -> Manifest:
    return load_step("embed_base").run(settings, Manifest(run_id=run_id, refs=refs), shard, shards)


def to_end(settings: Settings, run_id: str = "r1", **options: Any) -> Manifest:
    for _ in range(20):
        try:
            return embed(settings, run_id, **options)
        except Waiting:
            continue
    raise AssertionError("the step waits for ever")


def check(conn: Connection, server: FakeEmbeddings, again: int = 0) -> None:
    """Every chunk has the vector of its text, each text was paid for once and booked, nothing is left open.

    ``again`` texts were sent once more, to see that the model is still the same.
    """
    texts = dict(conn.execute("SELECT chunk_id, title || E'\\n' || text FROM heal.chunk JOIN heal.document USING "
                              "(document_id)").fetchall())  # fmt: skip
    (space,) = SpaceRepository(conn).list()
    ids, vectors = SpaceRepository(conn).load_chunks(space)
    assert sorted(ids.tolist()) == sorted(texts)
    np.testing.assert_allclose(vectors, planted([texts[key] for key in ids.tolist()]), atol=1e-6)
    paid = {text: times for text, times in server.paid.items() if text != "length"}
    assert paid.keys() == set(texts.values())
    assert sum(paid.values()) == len(paid) + again
    booked = number(conn, "SELECT sum(input_tokens) FROM heal.llm_call WHERE status = 'ok'")
    assert booked == sum(tokens(text) * times for text, times in paid.items())
    assert number(conn, "SELECT count(*) FROM heal.llm_reservation") == 0
    assert number(conn, "SELECT count(*) FROM heal.llm_batch WHERE state <> 'collected'") == 0
    assert number(conn, "SELECT count(*) FROM heal.llm_batch_row WHERE outcome IS NULL") == 0


def sent_alone(server: FakeEmbeddings) -> int:
    return sum(len(body["input"]) for body in server.bodies) - 1  # without the one that measures the dimensions


def test_a_batch_brings_all_vectors_for_half_the_price(auto: Connection, settings: Settings) -> None:
    add(auto)
    with FakeEmbeddings(batches=FakeBatches()) as server:
        made = to_end(batching(settings, server, dimensions=8))
        (job,) = server.batches.jobs.values()
    check(auto, server)
    assert job.body["endpoint"] == "/v1/embeddings"
    assert {request.body["dimensions"] for request in job.requests.values()} == {8}
    assert len(job.requests) == TEXTS, "equal texts are sent once"
    assert sent_alone(server) == 0
    assert made.counts == {"chunks": CHUNKS, "questions": 0}
    cost, input_tokens = auto.execute("SELECT sum(cost_usd), sum(input_tokens) FROM heal.llm_call").fetchall()[0]
    assert cost == pytest.approx(input_tokens * PRICE / 1e6 / 2)
    assert number(auto, "SELECT count(DISTINCT batch_id) FROM heal.llm_call") == 1
    assert not server.batches.files


def spoil(job: Job) -> None:
    """Of every way in which a line can be bad some; the others come in another order, and some twice."""
    for place, (name, reply) in enumerate([*job.answers.items()]):
        item = reply.body["data"][0]
        kind = place % 8
        if kind == 0:
            del job.answers[name]
        elif kind == 1:
            item["embedding"].append(0.5)
        elif kind == 2:
            item["embedding"] = "none"
        elif kind == 3:
            job.answers[name] = error(400, "maximum context length is 8192 tokens")
        elif kind == 4:
            reply.body["data"] = []
        elif kind == 5:
            job.output.append(row(name, reply))
    job.output += ["{", '"text"', row("somebody else's", Reply({"data": []})), json.dumps({"custom_id": 5})]


def test_every_way_a_line_can_be_bad_loses_no_text(auto: Connection, settings: Settings) -> None:
    add(auto)
    with FakeEmbeddings(batches=FakeBatches(end=spoil)) as server:
        server.useful = lambda reply: bool(reply.body["data"]) and len(reply.body["data"][0]["embedding"]) == 8
        made = to_end(batching(settings, server))
        assert len(server.batches.jobs) == 1
    check(auto, server)
    assert sent_alone(server) == sum(place % 8 < 5 for place in range(TEXTS))
    assert made.counts["chunks"] == CHUNKS
    statuses = dict(
        auto.execute("SELECT status, count(*) FROM heal.llm_call WHERE batch_id <> '' GROUP BY 1").fetchall()
    )
    assert (statuses["invalid"], statuses["failed"]) == (15, 5)


def fail(job: Job) -> None:
    job.status, job.answers = "failed", {}
    job.body["errors"] = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached."}]}


@pytest.mark.parametrize(("end", "alone"), [(expire_half, 20), (fail, TEXTS)])
def test_what_a_batch_leaves_open_is_embedded_directly(
    auto: Connection, settings: Settings, end: Callable[[Job], None], alone: int
) -> None:
    add(auto)
    with FakeEmbeddings(batches=FakeBatches(end=end)) as server:
        to_end(batching(settings, server))
    check(auto, server)
    assert sent_alone(server) == alone


def test_a_batch_whose_creation_was_cut_off_is_found_again(auto: Connection, settings: Settings) -> None:
    add(auto)
    memory = FakeBatches(on_create=lambda job: Reply(job.body, fault="drop"))
    with FakeEmbeddings(batches=memory) as server:
        with pytest.raises(RetryableError, match=r"embeddings endpoint .* does not answer"):
            embed(batching(settings, server))
        assert number(auto, "SELECT state FROM heal.llm_batch") == "sending"
        to_end(batching(settings, server))
        assert len(memory.jobs) == 1
    check(auto, server)
    assert sent_alone(server) == 0


@pytest.mark.parametrize("place", [(BatchApi, "upload"), (BatchRepository, "sending"), (BatchRepository, "sent")])
def test_a_task_killed_while_it_sends_pays_once(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch, place: tuple[type, str]
) -> None:
    add(auto)

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with FakeEmbeddings(batches=FakeBatches()) as server:
        limited = batching(settings, server, llm_run_spend_limit_usd=1000)
        with monkeypatch.context() as patch:
            patch.setattr(*place, die)
            with pytest.raises(KeyboardInterrupt):
                embed(limited)
        assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == TEXTS
        to_end(limited)
        assert len(server.batches.jobs) == 1
    check(auto, server)
    assert sent_alone(server) == 0


def test_a_task_killed_while_it_collects_pays_and_books_once(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(auto)
    monkeypatch.setattr(embedding_batches, "_PAGE", 10)
    take, taken = embedding_batches._Taker.take, list[int]()

    def die_later(self: Any, replies: Any) -> None:
        taken.append(len(replies))
        if len(taken) == 3:
            raise KeyboardInterrupt
        take(self, replies)

    with FakeEmbeddings(batches=FakeBatches()) as server:
        with monkeypatch.context() as patch:
            patch.setattr(embedding_batches._Taker, "take", die_later)
            with pytest.raises(KeyboardInterrupt):
                to_end(batching(settings, server))
        to_end(batching(settings, server))
        assert len(server.batches.jobs) == 1
    check(auto, server)
    assert sent_alone(server) == 0


def test_a_later_run_waits_for_and_collects_what_an_earlier_one_has_sent(auto: Connection, settings: Settings) -> None:
    add(auto)
    memory = FakeBatches(polls=0)
    with FakeEmbeddings(batches=memory) as server:
        for shard in range(2):
            with pytest.raises(Waiting, match=r"texts in \d batches") as found:
                embed(batching(settings, server), shard=shard, shards=2)
            assert found.value.endpoint == "embed"
        assert len(memory.jobs) == 2
        assert BatchRepository(auto, server.base_url).open() == [], "no task collects them as questions"
        add(auto, range(NUMBER, NUMBER + 5))
        # Batches switched off, or a nudge: what is paid is waited for, and no more is sent.
        for other in (batching(settings, server, llm_batch="off"), batching(settings, server)):
            with pytest.raises(Waiting):
                embed(other, "r2", route="nudge")
        memory.polls = 1
        made = to_end(batching(settings, server), "r2", route="nudge")
        assert made.counts["chunks"] == CHUNKS + 5
        assert len(memory.jobs) == 2
    check(auto, server, again=1)
    assert sent_alone(server) == 5 + 1
    assert set(auto.execute("SELECT run_id FROM heal.llm_call WHERE batch_id <> ''").fetchall()) == {("r1",)}


def test_a_spend_limit_is_kept_before_anything_is_sent(auto: Connection, settings: Settings) -> None:
    add(auto)
    with FakeEmbeddings(batches=FakeBatches(polls=0)) as server:
        with pytest.raises(StepError, match=f"{TEXTS} texts have no vector yet, the next {TEXTS}"):
            embed(batching(settings, server, llm_run_spend_limit_usd=0.1))
        assert not server.batches.jobs
        assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 0
        with pytest.raises(Waiting):
            embed(batching(settings, server, llm_run_spend_limit_usd=0.25))
        reserved = number(auto, "SELECT sum(cost_usd) FROM heal.llm_reservation")
        assert 0.1 < reserved <= 0.25
        server.batches.polls = 1
        to_end(batching(settings, server, llm_run_spend_limit_usd=0.25))
    check(auto, server)


def test_an_endpoint_without_batches_is_asked_directly(auto: Connection, settings: Settings) -> None:
    add(auto)
    with FakeEmbeddings() as server:
        embed(batching(settings, server))
    check(auto, server)


def test_plan_counts_with_the_price_of_a_batch_and_without_what_is_under_way(
    auto: Connection, settings: Settings
) -> None:
    add(auto)
    (settings.var_dir / "inbox").mkdir()
    with FakeEmbeddings(batches=FakeBatches(polls=0)) as server:

        def plan(**changes: Any) -> Calls:
            made = make_plan(batching(settings, server, force_route="realign", **changes)).embeddings
            assert made is not None
            return made

        assert plan(llm_batch="off").cost_usd == pytest.approx(2 * plan().cost_usd)
        before = plan().chunks
        with pytest.raises(Waiting):
            embed(batching(settings, server))
        assert plan().chunks == before - CHUNKS


def test_batches_are_sent_where_they_save_enough(settings: Settings) -> None:
    texts = ["x" * 3000] * 1000  # a million tokens
    off = settings.model_copy(update={"embed_usd_per_million": 100.0})
    dear, cheap = (off.model_copy(update={"llm_batch": "auto", "embed_usd_per_million": usd}) for usd in (2.1, 1.9))
    assert sends_batches(dear, "realign", texts)
    assert not sends_batches(dear, "nudge", texts)
    assert not sends_batches(cheap, "realign", texts)
    assert not sends_batches(off, "realign", texts)
