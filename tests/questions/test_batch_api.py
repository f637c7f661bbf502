"""The Batch API's client against a real HTTP server: errors are named, and the key is not in them."""

import io

import pytest

from heal_tasks.core.errors import HealError, RetryableError, SettingsError, StepError
from heal_tasks.questions.llm.batch_api import BatchApi, NoBatchApiError, request_line
from tests.fake_batches import FakeBatches, Job
from tests.fake_openai import FakeOpenAI, Reply, completion, error

KEY = "secret-key-123"


def api(fake: FakeOpenAI) -> BatchApi:
    return BatchApi(fake.base_url, KEY, 5.0)


def send(fake: FakeOpenAI, key: str = "k") -> str:
    line = request_line("h", "m", [{"role": "user", "content": "x"}], {})
    return api(fake).create(key, api(fake).upload(key, io.BytesIO(line)))


def test_from_a_file_up_to_a_file_down() -> None:
    with FakeOpenAI(lambda request: completion("{}"), batches=FakeBatches(polls=2)) as fake:
        batch_id = send(fake)
        assert api(fake).find("k") == batch_id
        assert api(fake).find("another") is None
        first, second = api(fake).job(batch_id), api(fake).job(batch_id)
        assert first is not None
        assert not first.ended
        assert second is not None
        assert second.ended
        (line,) = api(fake).lines(second.files[0])
        assert '"custom_id": "h"' in line
        api(fake).delete_files(None, *second.files, "no such file")
        assert list(second.files) == fake.batches.deleted[:1]  # type: ignore[union-attr]
        assert api(fake).job("batch_99") is None


def test_one_of_many_batches_is_found() -> None:
    with FakeOpenAI(batches=FakeBatches(polls=0)) as fake:
        ids = [send(fake, f"k{number}") for number in range(7)]
        assert api(fake).find("k0") == ids[0], "the oldest is on the last page"


def test_a_server_whose_list_has_no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(batches: FakeBatches, after: str) -> Reply:
        return Reply({"object": "list", "data": [job.body for job in batches.jobs.values()]})

    monkeypatch.setattr(FakeBatches, "_list", whole)
    with FakeOpenAI(batches=FakeBatches(polls=0)) as fake:
        batch_id = send(fake, "k")
        assert api(fake).find("k") == batch_id
        assert api(fake).find("another") is None


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error(401, f"no such key {KEY}"), SettingsError),
        (error(404, f"not here {KEY}"), NoBatchApiError),
        (error(400, f"bad {KEY}"), StepError),
        (error(429, f"slow {KEY}"), RetryableError),
        (error(500, f"broken {KEY}"), RetryableError),
        (Reply("", fault="drop"), RetryableError),
        (Reply({"id": "x" * 99}, fault="cut"), RetryableError),
    ],
)
def test_a_creation_is_tried_once_and_its_failure_named(reply: Reply, expected: type[HealError]) -> None:
    memory = FakeBatches(on_create=lambda job: reply)
    with FakeOpenAI(batches=memory) as fake:
        with pytest.raises(expected) as found:
            send(fake)
        assert len(memory.jobs) == 1
        assert fake.base_url in str(found.value)
        assert KEY not in str(found.value)


def test_an_endpoint_without_batches() -> None:
    with FakeOpenAI() as fake, pytest.raises(NoBatchApiError, match="HEAL_LLM_BATCH=off"):
        api(fake).check()


def test_a_result_file_that_breaks_off_can_be_read_again() -> None:
    memory = FakeBatches()
    with FakeOpenAI(lambda request: completion("{}"), batches=memory) as fake:
        job = api(fake).job(send(fake))
        assert job is not None
        memory.on_file = lambda: Reply(memory.files[job.files[0]].decode() * 9, fault="cut")
        with pytest.raises(RetryableError, match="does not answer"):
            list(api(fake).lines(job.files[0]))


def test_an_ended_batch_says_what_was_wrong() -> None:
    def refuse(job: Job) -> None:
        job.status, job.answers = "failed", {}
        job.body["errors"] = {"data": [{"code": "invalid_model", "message": "no such model"}] * 3}

    with FakeOpenAI(batches=FakeBatches(end=refuse)) as fake:
        job = api(fake).job(send(fake))
    assert job is not None
    assert (job.ended, job.files, job.problem) == (True, (), "invalid_model: no such model")
