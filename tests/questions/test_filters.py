"""Filters: what is dropped, for which reason, and what survives a model's habits when it quotes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.core.types import QuestionKind
from heal_tasks.questions.filters import apply_filters, copies_title, evidence_found, normalise
from heal_tasks.questions.writer import ChunkToAsk, Draft

TEXT = "The “inner” loop isn’t vectorised:\n  it reads ``x`` row\tby row – slowly. Copper melts at 1,085 °C."
CHUNK = ChunkToAsk(1, "pkg.inner_loop(x)", TEXT, "h")


def draft(text: str, kind: QuestionKind = "question", evidence: str = "Copper melts") -> Draft:
    return Draft(kind, text, "a", evidence)


@pytest.mark.parametrize(
    "evidence",
    [
        'the "INNER" loop isn\'t vectorised: it reads `x` row by row - slowly.',
        "Copper melts at 1,085 °C",
        "... it reads x row by row …",
        "it reads **x** row",
    ],
)
def test_evidence_is_found_despite_blanks_case_quotes_and_dashes(evidence: str) -> None:
    assert evidence_found(evidence, TEXT)


@pytest.mark.parametrize("evidence", ["", "  ", "…", "''", "Copper melts at 1,084", "loop is vectorised"])
def test_evidence_that_is_not_there_is_not_found(evidence: str) -> None:
    assert not evidence_found(evidence, TEXT)


@given(
    st.text(max_size=80),
    st.text(max_size=80),
    st.text(alphabet="abc XYZ'\n", min_size=1).filter(lambda t: t.strip(" '\n")),
)
def test_any_part_of_a_text_is_evidence(before: str, after: str, part: str) -> None:
    assert evidence_found(part.swapcase(), f"{before} {part} {after}")


@given(st.text(alphabet="aB \t\n\"'`´“”‘’«»*–—‐-…é."))
def test_normalise_is_idempotent_and_folds_everything(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert normalise(text.upper()) == once
    assert not set(once) & set("\t\n\"'`“”‘’«»*–—‐AB")


@pytest.mark.parametrize(
    ("text", "title", "copy"),
    [
        ("Pkg inner_loop x", "pkg.inner_loop(x)", True),
        ("What is the inner ear?", "Inner ear", True),
        ("What does the inner ear measure?", "Inner ear", False),
        ("anything at all", "", False),
        ("What is it?", "The", False),
    ],
)
def test_copies_of_the_title(text: str, title: str, copy: bool) -> None:
    assert copies_title(text, title) is copy


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (draft(""), "empty"),
        (draft("?!"), "empty"),
        (draft("Why does copper?"), "short"),
        (draft("copper", "keyword"), "short"),
        (draft("why " * 41), "long"),
        (draft("copper " * 13, "keyword"), "long"),
        (draft("What does this document say about copper?"), "dangling"),
        (draft("According to the passage, when does copper melt?"), "dangling"),
        (draft("What is pkg.inner_loop with x?"), "title"),
        (draft("At which heat does copper melt?", evidence="Copper boils"), "evidence"),
        (draft("at which heat does COPPER melt"), "duplicate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_reason(bad: Draft, reason: str) -> None:
    good = draft("At which heat does copper melt?")
    kept, dropped = apply_filters([good, bad], CHUNK)
    assert kept == [good]
    assert dropped == Counter({reason: 1})


def test_bounds_are_included() -> None:
    drafts = [draft("When does copper melt?"), draft("copper heat", "keyword"), draft("w " * 39 + "x", "claim")]
    kept, dropped = apply_filters(drafts, CHUNK)
    assert kept == drafts
    assert not dropped


def test_a_text_about_documents_is_not_dangling() -> None:
    kept, _ = apply_filters([draft("How do I copy the text of a document in place?")], CHUNK)
    assert len(kept) == 1


def test_a_question_without_blanks_between_words_has_words() -> None:
    kept, _ = apply_filters([draft("铜在什么温度下熔化？", evidence="Copper")], CHUNK)
    assert len(kept) == 1
