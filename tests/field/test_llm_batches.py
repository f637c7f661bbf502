"""Batches: lines that are errors, other things in place of a file or a batch, and bounds."""

import pytest

from heal_tasks.core.errors import HealError, RetryableError
from heal_tasks.core.settings import Settings
from heal_tasks.endpoint.transport import bounded_lines
from heal_tasks.questions.llm.batch_api import BatchApi, read_line
from heal_tasks.questions.llm.question_prompt import parse_drafts
from heal_tasks.store.db import Connection
from tests.fake_batches import FakeBatches, row
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error
from tests.steps.asking import add
from tests.steps.batching import answered, batching, to_end


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"code": 429, "message": "wait"}}, "failed"),
        ({"error": {"code": 402, "message": "pay"}}, "failed"),
        ({"error": {"code": "content_filter", "message": "moderated"}}, "refused"),
        ([{"error": {"code": 500}}], "failed"),
        ({"choices": [{"error": {"code": 502, "message": "gone"}}]}, "failed"),
        ({"detail": "Unauthorized"}, "failed"),
        ("<html>", "failed"),
        ({"choices": []}, "invalid"),
        (completion(None).body, "invalid"),
    ],
)
def test_a_line_with_status_200_and_an_error_is_that_error(body: object, status: str) -> None:
    found = read_line(row("h", Reply(body)), parse_drafts)
    assert found is not None
    assert found[1] is not None
    assert found[1].call.status == status


def test_lines_of_a_batch_that_are_errors_are_asked_one_by_one_and_stay_open_if_that_fails(
    auto: Connection, settings: Settings
) -> None:
    add(auto, range(12))
    errors = [
        Reply({"error": {"code": 402, "message": "pay"}}), error(402, "pay"), error(429, "wait"),
        Reply({"error": "overloaded"}), completion(None),
    ]  # fmt: skip
    with FakeOpenAI(batches=FakeBatches()) as fake:

        def rule(request: Request) -> Reply | None:
            kind = int(request.title.split()[1])
            if kind >= len(errors):
                return None
            return completion("no") if request.raw else errors[kind]

        fake.rule = rule
        made = to_end(batching(settings, fake))
        assert (made.counts["asked"], made.counts["failed"]) == (7, 5)
        assert answered(auto) == 7
        fake.rule = None
        fake.requests.clear()
        assert to_end(batching(settings, fake, llm_batch="off"), "r2").counts["asked"] == len(fake.requests) == 5


@pytest.mark.parametrize(
    "reply",
    [
        Reply("<html>Sign in</html>"),
        Reply({"error": {"code": 500, "message": "storage"}}),
        Reply("", 302, {"Location": "https://login.example"}),
        Reply("", fault="reset"),
    ],
    ids=["page", "error", "redirect", "reset"],
)
def test_something_else_than_a_result_file_loses_no_reply(auto: Connection, settings: Settings, reply: Reply) -> None:
    add(auto, range(6))
    memory = FakeBatches()
    with FakeOpenAI(batches=memory) as fake:
        memory.on_file = lambda: reply
        with pytest.raises(RetryableError, match="LLM endpoint"):
            to_end(batching(settings, fake))
        assert not memory.deleted
        memory.on_file = None
        assert to_end(batching(settings, fake)).counts["asked"] == 6
        assert not fake.requests, "what was paid for is used"


@pytest.mark.parametrize(
    "reply",
    [
        Reply("<html>Sign in</html>"),
        Reply({"error": {"code": 429, "message": "wait"}}),
        Reply("", 302, {"Location": "https://login.example"}),
        Reply([1]),
        Reply({"id": "b"}, fault="drip"),
        Reply(b" " * 65536, fault="endless"),
    ],
    ids=["page", "error", "redirect", "list", "drip", "endless"],
)
def test_anything_in_place_of_a_batch_is_an_error_with_a_name(reply: Reply) -> None:
    memory = FakeBatches()
    with FakeOpenAI(batches=memory) as fake:
        memory.on_create = lambda job: reply
        memory.files["f"] = b""
        with pytest.raises(HealError, match="LLM endpoint http"):
            BatchApi(fake.base_url, None, 0.4).create("k", "f")


def test_lines_are_bounded() -> None:
    pieces = [b"one\ntw", b"o\n\n", b"x" * 9, b"x" * 9, b"x\nthree\n", b"y" * 30]
    assert list(bounded_lines(pieces, 8)) == ["one", "two", "three"]
    assert list(bounded_lines([b'{"a": "\xe2\x80\xa8"}\nlast'], 99)) == ['{"a": "\u2028"}', "last"]
