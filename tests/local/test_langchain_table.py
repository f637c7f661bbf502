"""The demo's table: texts without the words of the questions, and questions of one row each."""

import pytest

from heal_tasks.core.settings import load_settings
from heal_tasks.local import langchain_table
from heal_tasks.local.langchain_table import MAX_CHARS, rows_to_store

BODY = "It runs until the change is small, or the steps are used up.\nSee also the user guide and its examples."


def rows(monkeypatch: pytest.MonkeyPatch, *documents: tuple[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    """Texts and questions of the rows that are made of titles and texts."""
    items = [{"title": title, "text": text, "metadata": {}} for title, text in documents]
    monkeypatch.setattr(langchain_table, "sample", lambda *_: items)
    return [(row.text, row.questions) for row in rows_to_store(load_settings())]


def test_a_text_lacks_the_summary_and_the_name_which_are_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"Fit the model to\nall data at hand. More of it.\n\n{BODY}"
    assert rows(monkeypatch, ("acme.linear.SlowModel.partial_fit(X, y)", text)) == [
        (
            BODY,
            (
                "Fit the model to all data at hand.",
                "acme linear slow model partial fit",
                "slow model partial fit",
                "partial fit in acme",
            ),
        )
    ]


def test_a_question_about_two_rows_is_asked_about_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(
        monkeypatch,
        ("acme.a.fit", f"Fit the model to all data.\n\n{BODY}"),
        ("acme.b.fit", f"Fit the model to all data.\n\n{BODY} It is slow."),
    )
    assert [questions for _, questions in found] == [("acme a fit", "a fit"), ("acme b fit", "b fit")]


def test_documents_without_summary_or_with_little_or_equal_text_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = rows(
        monkeypatch,
        ("acme.long", f"Fit the model to all data.\n\n{BODY}\n{'word ' * MAX_CHARS}"),
        ("acme.short", "Fit the model to all data.\n\nIt is slow."),
        ("acme.list", f"data (array):\n\n{BODY}"),
        ("acme.same", f"Fit another model to all data.\n\n{BODY}\n{'other ' * MAX_CHARS}"),
    )
    assert first[0] == BODY
    assert not others
