"""Chunks by structure: sections first, tables by rows with their header, headings in the title line."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError
from heal_tasks.core.text import MAX_HEADING_CHARS, title_line
from heal_tasks.sources.chunking import Chunk, chunk_text, embedding_text
from heal_tasks.sources.structure import Break, fields, pieces

ROW = "| part {} | is of steel and brass |\n"
HEADER = "| Part | Made of |\n| --- | --- |\n"


def words(text: str) -> int:
    """Two special tokens and the words."""
    return 2 + len(text.split())


def section(name: str, length: int) -> str:
    """A heading and sentences of four words."""
    return f"## {name}\n\n" + " ".join(f"Sentence {number} of {name.lower()}." for number in range(length))


_BLOCKS = st.sampled_from([
    "# One\n", "## Two\n", "### Three `x` #\n", "Under\n=====\n", "Para one. Para two.\n\n", "- item\n- other item\n",
    "```sh\n# no heading\n```\n", "~~~\nopen\n", "\n", HEADER, ROW.format(1), ROW.format(2), "| --- |\n",
    "a | b\n---|---\n1 | 2\n", "word " * 30, "#hash ", "Text.", "---\n", "===\n",
])  # fmt: skip


@settings(max_examples=300)
@given(st.lists(_BLOCKS | st.text(max_size=5), max_size=30).map("".join))
def test_pieces_joined_are_the_text(body: str) -> None:
    found = list(pieces(body))
    assert "".join(piece.text for piece in found) == body
    assert all(piece.text for piece in found)
    assert all(piece.text.endswith(piece.header + piece.row) or piece.text == piece.row for piece in found if piece.row)


@settings(max_examples=300)
@given(st.lists(_BLOCKS, min_size=1, max_size=40).map("".join), st.integers(16, 60), st.sampled_from([0, 8]))
@example("| Part | Made of |\n| --- | --- |\n| --- |\n", 16, 0)  # a row with fewer cells than there are names
def test_every_word_is_in_a_chunk_that_fits(body: str, most: int, overlap: int) -> None:
    chunks = chunk_text("A title", body, words, most, overlap)
    for heading, text in chunks:
        assert text == text.strip() != ""
        assert words(embedding_text(title_line("A title", heading), text)) <= most
    kept = set(re.findall(r"\w+", " ".join(text for _, text in chunks)))
    assert set(re.findall(r"\w+", body)) <= kept


def test_a_text_is_divided_at_its_headings() -> None:
    body = "\n\n".join([section("Oil", 4), section("Water", 5), section("Air", 3)])
    assert chunk_text("Guide", body, words, 30) == [
        Chunk("Oil", section("Oil", 4)),
        Chunk("Water", section("Water", 5)),
        Chunk("Air", section("Air", 3)),
    ]


def test_small_sections_share_a_chunk_under_the_headings_that_they_share() -> None:
    liquids = f"## Liquids\n\n#{section('Oil', 2)}\n\n#{section('Water', 2)}"
    first, *others = chunk_text("Guide", f"# Guide\n\n{liquids}\n\n{section('Air', 20)}", words, 32)
    assert first == Chunk("Liquids", f"# Guide\n\n{liquids}")
    assert {heading for heading, _ in others} == {"Air"}


def test_headings_within_a_section_are_the_path() -> None:
    body = "# Guide\n\nIntro.\n\n## Liquids\n\n### Oil\n\n" + "Words about oil here. " * 30
    chunks = chunk_text("Guide", body, words, 40)
    assert {heading for heading, _ in chunks[1:]} == {"Liquids › Oil"}
    assert chunk_text("Other", body, words, 40)[-1].heading == "Guide › Liquids › Oil"


@pytest.mark.parametrize("text", ["```\n# comment\n```\n", "    # code\n", "#tag\n", "- a\n---\n", "| a\n---\n"])
def test_what_is_no_heading(text: str) -> None:
    assert all(piece.begins is not Break.SECTION for piece in pieces(f"Intro.\n\n{text}Text."))


def test_long_headings_are_cut_from_the_outside() -> None:
    names = ["Outer " * 12, "Middle " * 12, "Inner " * 30]
    body = "".join(f"{'#' * level} {name}\n\n" for level, name in enumerate(names, start=1)) + "Word. " * 300
    heading = chunk_text("T", body, words, 120)[-1].heading
    assert len(heading) <= MAX_HEADING_CHARS and heading.startswith("Inner Inner") and heading.endswith("…")
    assert title_line("x" * 500, heading) == f"{'x' * 77} › {heading}"


def test_a_heading_is_not_left_alone() -> None:
    body = "Word. " * 10 + "\n\n## Part\n\n" + "Another sentence of this. " * 10
    assert all(not text.endswith("## Part") for _, text in chunk_text("", body, words, 16))


def test_a_table_is_cut_between_rows_and_every_chunk_has_the_header() -> None:
    body = "## Parts\n\nAll parts:\n\n" + HEADER + "".join(ROW.format(number) for number in range(40)) + "\nThe end."
    chunks = chunk_text("Guide", body, words, 60)
    assert len(chunks) > 5
    rows = [line for _, text in chunks for line in text.splitlines() if line.startswith("| part")]
    assert rows == [ROW.format(number).strip() for number in range(40)]
    assert all(HEADER in text for _, text in chunks)
    assert {heading for heading, _ in chunks} == {"Parts"}


def test_a_row_that_does_not_fit_is_written_as_names_and_values() -> None:
    header = "| Part | " + " | ".join(f"column {number}" for number in range(20)) + " |\n" + "| --- " * 21 + "|\n"
    rows = [
        f"| valve {row} | " + " | ".join(f"value {row} {column}" for column in range(20)) + " |\n" for row in (1, 2)
    ]
    chunks = chunk_text("", header + "".join(rows), words, 30)
    lines = [line for _, text in chunks for line in text.splitlines()]
    assert {f"column {column}: value {row} {column}" for row in (1, 2) for column in range(20)} < set(lines)
    assert all(text.startswith("Part: valve ") for _, text in chunks)


def test_a_first_row_with_a_long_text_is_no_header_of_the_rows_below() -> None:
    rows = [f"| Question {number}? | " + f"answer{number} " * 60 + "|\n" for number in range(20)]
    body = rows[0] + "| --- | --- |\n" + "".join(rows[1:])
    for most in (100, 40):
        texts = [text for _, text in chunk_text("", body, words, most)]
        assert sum(text.count("answer0") for text in texts) == 60
        assert sum(text.count("answer7") for text in texts) == 60
        assert all(text.startswith(("| Question", "Question")) for text in texts)
    huge = "| " + "h " * 10_000 + "| b |\n|---|---|\n" + "| x | y |\n" * 2000
    assert len(chunk_text("", huge, words, 100)) < 400


def test_fields_of_a_row() -> None:
    assert fields(r"| a \| b |  | c | more |", "| X | Y | Z |\n|---|---|---|\n") == [
        r"X: a \| b" + "\n",
        "Z: c\n",
        "more\n",
    ]


def test_overlap_is_of_whole_sentences_in_one_section() -> None:
    body = section("Oil", 12) + "\n\n" + section("Water", 12)
    plain, overlapping = (chunk_text("", body, words, 32, overlap) for overlap in (0, 8))
    assert "".join(text.replace(" ", "") for _, text in plain).count("Sentence") == 24
    for before, (_, text) in pairwise(overlapping):
        shared = [sentence for sentence in re.findall(r"Sentence \d+ of \w+\.", text) if sentence in before.text]
        assert len(shared) in ({0} if text.startswith("##") else {1, 2})


def test_an_overlap_above_half_a_chunk_is_an_error() -> None:
    with pytest.raises(InputError, match="HEAL_CHUNK_OVERLAP=17 is more than half of a chunk of 32 tokens; lower it"):
        chunk_text("", "One. " * 100, words, 32, 17)
