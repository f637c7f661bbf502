"""The one sanitiser of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.core.text import nearest_name, storable, unstorable


@given(st.text(st.characters()))
def test_only_nul_and_surrogates_are_replaced(text: str) -> None:
    made = storable(text)
    assert len(made) == len(text)
    assert "\0" not in made
    made.encode("utf-8")
    assert all(new == old or (new == "\ufffd" and (old == "\0" or 0xD800 <= ord(old) <= 0xDFFF))
               for new, old in zip(made, text, strict=True))  # fmt: skip
    assert storable(made) == made
    assert (unstorable(text) is None) == (made == text)


def test_the_first_character_that_cannot_be_stored_is_named() -> None:
    assert unstorable("fine: é 😀") is None
    assert unstorable("a\0\ud800") == "a NUL character (U+0000)"
    assert unstorable("a\udfff\0") == "half of a surrogate pair"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("folders", "folder"), ("Postgresql", "postgres"), ("site_map", "sitemap"), ("post", "postgres"),
        ("notes", None), ("s4", None), ("mysql", None), ("po", None), ("", None),
    ],
)  # fmt: skip
def test_only_near_names_are_suggested(name: str, meant: str | None) -> None:
    assert nearest_name(name, ["folder", "s3", "pydocs", "postgres", "gcs", "azure", "sitemap"]) == meant
