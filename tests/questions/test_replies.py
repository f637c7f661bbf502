"""Parsing of replies: JSON between other text, and a named problem where there is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.questions.llm.question_prompt import parse_drafts
from heal_tasks.questions.llm.replies import read_completion

ITEM = {"type": "claim", "query": "Iron  floats\n on mercury", "answer": "It does.", "evidence_quote": "iron floats"}
GOOD = json.dumps({"items": [ITEM]})


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"<think>Maybe {{this}}? or [1, 2]</think>\n{GOOD}",
        f"Here you are: {GOOD} I hope that helps {{smile}}.",
        json.dumps([ITEM]),
        json.dumps({"items": [{**ITEM, "confidence": 0.9}], "note": "x"}),
        f'{{"draft": true}} {GOOD}',
        f"From [] and [1] follows {GOOD}",
        GOOD.replace("\\n", "\n"),
    ],
    ids=[
        "plain",
        "fence",
        "reasoning",
        "between sentences",
        "bare list",
        "extra keys",
        "second object",
        "lists before",
        "line break in a string",
    ],
)
def test_finds_the_json(content: str) -> None:
    (draft,) = parse_drafts(content)
    assert (draft.kind, draft.text) == ("claim", "Iron floats on mercury")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no complete JSON object"),
        (GOOD[:-5], "no complete JSON object"),
        ('{"items": 3}', "items: Input should be a valid list"),
        ('{"items": [{"type": "claim"}]}', "items.0.query: Field required"),
    ],
)
def test_names_the_problem(content: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_drafts(content)


@pytest.mark.parametrize("content", ["[]", '{"items": []}', "Nothing to ask: []"])
def test_an_empty_list_is_an_answer(content: str) -> None:
    assert parse_drafts(content) == ()


@given(st.text(alphabet='{}[]":, itemsclaim\\u0d8', max_size=200))
def test_any_text_gives_drafts_or_a_value_error(content: str) -> None:
    try:
        drafts = parse_drafts(content)
    except ValueError:
        return
    assert all(draft.kind in ("question", "keyword", "claim") for draft in drafts)


KEYS = st.sampled_from(["choices", "message", "content", "usage", "finish_reason"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=12))
def test_any_body_is_read_without_an_exception(body: object) -> None:
    assert read_completion(json.dumps(body), parse_drafts).call.status in ("ok", "invalid", "refused")


def test_a_huge_body_that_is_no_completion_is_kept_in_part() -> None:
    assert len(read_completion("<html>" + "x" * 100_000, parse_drafts).call.raw_reply) == 20_000


def test_a_key_that_a_server_repeats_is_not_kept() -> None:
    reply = {"choices": [{"message": {"content": 'You sent {"authorization": "Basic c29tZWJvZHk6UGw0bnRlZDE="}.'}}]}
    call = read_completion(json.dumps(reply), parse_drafts).call
    assert call.status == "invalid"
    assert call.raw_reply == 'You sent {"authorization": "Basic ***"}.'


def test_the_tokens_of_a_reply_with_a_byte_order_mark_are_not_guessed() -> None:
    body = {"choices": [{"message": {"content": GOOD}}], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
    call = read_completion(f"\ufeff{json.dumps(body)}", parse_drafts).call
    assert (call.status, call.booked_tokens, call.guessed) == ("ok", (9, 4), False)
