"""Chunks: nothing lost, nothing too long, cut at sentences, about equal."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError, SettingsError
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.core.text import title_line
from heal_tasks.core.types import TokenCounter
from heal_tasks.sources.chunking import chunk_text, embedding_text, token_counter


@pytest.fixture(scope="module")
def count_tokens() -> TokenCounter:
    return token_counter(resolve_model(PACKAGED_MODEL))


def _words(text: str) -> int:
    """Two special tokens and the words: adds up exactly."""
    return 2 + len(text.split())


def _bytes(text: str) -> int:
    """Like a byte-level tokenizer: one token per two bytes, which does not add up."""
    return 2 + (len(text.encode("utf-8")) + 1) // 2


def _superadditive(text: str) -> int:
    """A whole costs more than its parts, so a plan made from parts is too full."""
    return 2 + len(text) // 4 + len(text) // 40


COUNTERS = [_words, _bytes, _superadditive]
_PARTS = [
    "One sentence. ", "two ", "\n", "\n\n", "Three! ", "e.g. x ", "漢字。", "longwordlongword", "x" * 90, "é", "  ",
]  # fmt: skip
_TEXT = st.lists(st.sampled_from(_PARTS) | st.text(max_size=6), max_size=60).map("".join)


def texts(title: str, body: str, count: TokenCounter, max_tokens: int) -> list[str]:
    return [chunk.text for chunk in chunk_text(title, body, count, max_tokens)]


def _check(title: str, body: str, count: TokenCounter, max_tokens: int) -> list[str]:
    chunks = chunk_text(title, body, count, max_tokens)
    assert re.sub(r"\s+", "", "".join(chunk.text for chunk in chunks)) == re.sub(r"\s+", "", body)
    for heading, text in chunks:
        assert text and text == text.strip()
        assert count(embedding_text(title_line(title, heading), text)) <= max_tokens or len(text) == 1
    return [chunk.text for chunk in chunks]


@pytest.mark.parametrize("count", COUNTERS)
@settings(max_examples=150)
@given(body=_TEXT, max_tokens=st.integers(16, 64))
@example(body="", max_tokens=16)
@example(body=" \n ", max_tokens=16)
@example(body="x" * 1000, max_tokens=16)
def test_nothing_is_lost_nothing_is_empty_and_everything_fits(count: TokenCounter, body: str, max_tokens: int) -> None:
    _check("A title", body, count, max_tokens)


@settings(max_examples=150)
@given(body=_TEXT, max_tokens=st.integers(16, 40))
def test_the_same_with_the_packaged_models_tokenizer(count_tokens: TokenCounter, body: str, max_tokens: int) -> None:
    _check("A title", body, count_tokens, max_tokens)


def test_a_text_that_fits_is_one_chunk() -> None:
    assert texts("Title", " One. Two.\nThree. ", _words, 16) == ["One. Two.\nThree."]
    assert texts("Title", "", _words, 16) == []
    fits = " ".join(["word"] * 13)
    assert texts("Title", fits, _words, 16) == [fits]
    assert len(texts("Title", f"{fits} word", _words, 16)) == 2


def test_chunks_end_at_sentences() -> None:
    body = 'The first sentence has seven words here. As Fig. 3 shows, e.g. here, it goes on. Is it? "Yes!" The end.'
    assert texts("", body, _words, 16) == [
        "The first sentence has seven words here.",
        'As Fig. 3 shows, e.g. here, it goes on. Is it? "Yes!" The end.',
    ]
    hard_wrapped = (
        "A sentence that is\nwrapped at a narrow\nmargin goes on here.\n- An item\n- Another item of this list"
    )
    assert texts("", hard_wrapped, _words, 16) == [
        "A sentence that is\nwrapped at a narrow\nmargin goes on here.",
        "- An item\n- Another item of this list",
    ]


def test_chunks_are_about_equal() -> None:
    """A greedy split would leave 14 + 14 + 2 words."""
    sizes = [len(chunk.split()) for chunk in texts("", "Two words. " * 15, _words, 16)]
    assert sizes == [10, 10, 10]
    many = [len(chunk.split()) for chunk in texts("", "Two words. " * 701, _words, 16)]
    assert len(many) == 101
    assert min(many) >= 6


def test_long_sentences_are_cut_at_blanks_and_long_words_anywhere() -> None:
    sentence = " ".join(f"w{number}" for number in range(100))
    chunks = _check("", sentence, _words, 16)
    assert [word for chunk in chunks for word in chunk.split()] == sentence.split()
    assert max(len(chunk) for chunk in _check("", "y" * 3000, _bytes, 16)) <= 28


def test_an_endless_word_that_the_model_does_not_know_is_cut_too(count_tokens: TokenCounter) -> None:
    blob = "QUJD" * 5000
    assert count_tokens(blob) == 3
    assert max(map(len, _check("A title", f"See: {blob} End.", count_tokens, 64))) <= 16 * 64


def test_a_title_leaves_the_text_at_least_half() -> None:
    long_title = "word " * 60
    chunks = texts(long_title, "Body text here. " * 20, _words, 20)
    assert all(_words(chunk) <= 10 for chunk in chunks)
    assert len(chunks) < 20
    shorter = "word " * 8
    assert all(_words(embedding_text(shorter, chunk)) <= 20 for chunk in texts(shorter, "Body text. " * 20, _words, 20))


def test_embedding_text_cuts_the_title() -> None:
    assert embedding_text("Title", "text") == "Title\ntext"
    assert embedding_text("", "text") == "text"
    assert embedding_text("t" * 300, "text") == "t" * 200 + "\ntext"


def test_a_limit_too_small_for_a_title_is_an_error() -> None:
    with pytest.raises(InputError, match="chunks of 15 tokens are too short"):
        texts("", "text", _words, 15)


def test_every_sentence_is_counted_once_and_every_chunk_once_more() -> None:
    seen = 0

    def count(text: str) -> int:
        nonlocal seen
        seen += len(text)
        return _words(text)

    body = "Five words are in this. " * 5000
    texts("", body, count, 50)
    assert seen < 4 * len(body)


def test_a_megabyte_takes_seconds(count_tokens: TokenCounter) -> None:
    body = "The quick brown fox (see Fig. 3) jumps over the lazy dog, e.g. at night. " * 13_700
    start = time.process_time()
    chunks = texts("A title", body, count_tokens, 200)
    assert time.process_time() - start < 15  # about 2 s; repeated counting of growing prefixes takes minutes
    assert len(body) >= 1_000_000
    assert len(chunks) > 1000


def test_the_counter_counts_what_the_model_reads(count_tokens: TokenCounter) -> None:
    assert count_tokens("") == 2
    assert count_tokens("hello world") == 4
    assert count_tokens("hello " * 1000) == 1002  # nothing truncated, although the file says 128


def test_the_counter_is_the_same_without_tokenizer_json(tmp_path: Path, count_tokens: TokenCounter) -> None:
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
        (tmp_path / name).write_bytes((Path(resolve_model(PACKAGED_MODEL)) / name).read_bytes())
    slow = token_counter(str(tmp_path))
    for text in ("", "Hello, tokenizers!", "word " * 700):
        assert slow(text) == count_tokens(text)


def test_a_folder_without_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"HEAL_MODEL=.* has no tokenizer that can be loaded"):
        token_counter(str(tmp_path))
