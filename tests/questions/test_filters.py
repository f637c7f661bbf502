"""Filters: what each drops, and quotations that differ only as models change them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.core.setting_groups import QUESTION_FILTERS, QuestionFilter
from heal_tasks.core.types import QuestionKind
from heal_tasks.questions.extractive.words import content_words
from heal_tasks.questions.filters import check_drafts, copies_title, evidence_found, near_duplicates, normalise
from heal_tasks.questions.writer import ChunkToAsk, Draft
from tests.questions.filtering import apply_filters

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


@pytest.mark.parametrize(
    "evidence",
    [
        "",
        "  ",
        "…",
        "''",
        "Copper melts at 1,084",
        "loop is vectorised",
        "r",
        "it",
        "1,085",
        "opper melts",
        "Copper mel",
    ],
)
def test_evidence_that_is_not_there_is_not_found(evidence: str) -> None:
    assert not evidence_found(evidence, TEXT)


@given(
    st.text(max_size=80),
    st.text(max_size=80),
    st.text(alphabet="abc XYZ'\n", min_size=1).filter(lambda part: content_words(normalise(part))),
)
def test_any_words_of_a_text_are_evidence(before: str, after: str, part: str) -> None:
    assert evidence_found(part.swapcase(), f"{before} {part} {after}")


def test_a_quotation_may_stand_in_a_text_more_than_once_and_without_blanks() -> None:
    assert evidence_found("rows", "Rowset and rows.")
    assert evidence_found("銅は摂氏千度", "純粋な銅は摂氏千度で溶ける。")


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


REASONS = pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (draft("Why does copper?"), "short"),
        (draft("copper", "keyword"), "short"),
        (draft("why " * 41), "long"),
        (draft("copper " * 13, "keyword"), "long"),
        (draft("What does this document say about copper?"), "dangling"),
        (draft("According to the passage, when does copper melt?"), "dangling"),
        (draft("What is pkg.inner_loop with x?"), "title"),
        (draft("At which heat does copper melt?", evidence="Copper boils"), "evidence"),
        (draft("at which heat does COPPER melt"), "duplicate"),
        (draft("At which heats is it that the copper does melt?"), "near_duplicate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)


@REASONS
def test_each_reason(bad: Draft, reason: str) -> None:
    good = draft("At which heat does copper melt?")
    kept, dropped = apply_filters([good, bad], CHUNK)
    assert kept == [good]
    assert dropped == Counter({reason: 1})


@REASONS
def test_each_filter_can_be_switched_off(bad: Draft, reason: QuestionFilter) -> None:
    good = draft("At which heat does copper melt?")
    only, dropped = apply_filters([good, bad], CHUNK, [reason])
    assert (only, dropped) == ([good], Counter({reason: 1}))
    others = set(QUESTION_FILTERS) - {reason}
    assert dict(check_drafts([good, bad], CHUNK, others))[bad] != reason


@pytest.mark.parametrize("text", ["", "?!"])
def test_a_draft_without_words_is_refused_always(text: str) -> None:
    assert apply_filters([draft(text)], CHUNK, []) == ([], Counter({"empty": 1}))
    assert apply_filters([draft("it")], CHUNK, []) == ([draft("it")], Counter())


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("What is the melting point of copper?", "Which melting point has copper?", True),
        ("How do solvers scale sparse matrices in use?", "How do solvers scale large sparse matrices in use?", True),
        ("What does numpy sum return?", "What does numpy mean return?", False),
        ("How many died in 1998?", "How many died in 1999?", False),
        ("Why does copper melt?", "When does copper melt?", False),
        ("Which cells divide?", "Which cells do not divide?", False),
        ("copper melting point", "copper melting point pressure heat", False),
        ("What is it?", "Is this that?", False),
    ],
)  # fmt: skip
def test_near_duplicates(one: str, other: str, near: bool) -> None:
    assert near_duplicates(one, other) is near
    assert near_duplicates(other, one) is near


def test_a_question_and_keywords_of_the_same_words_are_both_kept() -> None:
    drafts = [draft("Which melting point has copper?"), draft("copper melting point", "keyword")]
    assert apply_filters(drafts, CHUNK)[0] == drafts


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
