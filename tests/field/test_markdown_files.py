"""Markdown: front matter gives title and metadata, headings lose their markup."""

import pytest

from tests.sources.parsing import accepted


def test_front_matter_in_yaml_and_toml() -> None:
    yaml = '---\ntitle: "Cleaning"\ndate: 2024-01-02\ntags: [a, b]\ndraft: true\nn: {k: .nan}\n---\n\nRinse.\n'
    record = accepted("x.md", yaml)
    assert (record.title, record.body) == ("Cleaning", "Rinse.")
    assert record.metadata == {"date": "2024-01-02", "tags": ["a", "b"], "draft": True, "n": {"k": None}}
    toml = '+++\ntitle = "Rinsing"\ndate = 2024-01-02T03:04:05Z\n+++\nText.'
    record = accepted("x.markdown", toml)
    assert (record.title, record.body, record.metadata) == ("Rinsing", "Text.", {"date": "2024-01-02T03:04:05+00:00"})


@pytest.mark.parametrize(
    ("text", "title", "body"),
    [
        ("---\r\ntitle: T\r\n---\r\nBody", "T", "Body"),
        ("---\ntitle: T\n...\nBody", "T", "Body"),
        ("---\nauthor: x\n---\n# Head\nBody", "Head", "# Head\nBody"),
        ("---\ntitle: 2024\n---\nBody", "2024", "Body"),
        ("---\n---\n# Head", "Head", "# Head"),
        ("---\n- a list\n---\n# Head", "Head", "---\n- a list\n---\n# Head"),
        ("---\ntitle: Pumps: the basics\n---\nBody", "Pumps: the basics", "---\ntitle: Pumps: the basics\n---\nBody"),
        ("---\nnever closed", "x", "---\nnever closed"),
        ("----\na: b\n---\n# Head", "a: b", "----\na: b\n---\n# Head"),
    ],
)
def test_front_matter_of_all_sorts(text: str, title: str, body: str) -> None:
    record = accepted("x.md", text)
    assert (record.title, record.body) == (title, body)


def test_integers_that_cannot_be_written_are_left_out() -> None:
    assert accepted("x.md", f"---\na: 0x{'f' * 9000}\nb: 0x1f\n---\nBody").metadata == {"a": None, "b": 31}


@pytest.mark.parametrize(
    "inside",
    [
        "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "a: " + "[" * 60_000,
        "a: !!python/object/apply:os.system [ls]",
        "a: b: c",
        "draft: !!bool maybe",
        "at: !!timestamp noon",
        "count: !!int",
        "x" * 70_000,
    ],
)
def test_front_matter_that_cannot_be_read_is_text(inside: str) -> None:
    record = accepted("x.md", f"---\n{inside[:9000]}\n---\nBody")
    assert record.body.startswith("---")
    assert record.metadata == {}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# **Bold** [link](http://x.test) `code` &amp; *more*", "Bold link code & more"),
        ("# Valves {#valves}", "Valves"),
        ("# [![badge](b.svg)](x)\n# Real", "Real"),
        ('<h1 align="center">SuperPump</h1>\n\n## Installation', "SuperPump"),
        ("<h1>\n  <img src=x>\n  Super <b>Pump</b>\n</h1>\n\n# Other", "Super Pump"),
        ("<!--\n# licence\n-->\n# Title", "Title"),
        ("# snake_case_name", "snake_case_name"),
        ("# C#", "C#"),
        ("# 2 < 3 \\* 4", "2 < 3 * 4"),
        ("A *title*\n---", "A title"),
    ],
)
def test_headings_as_they_are_shown(text: str, title: str) -> None:
    assert accepted("x.md", text).title == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("---\ntitle: 2.10\n---\n# H\ntext", "2.10"),
        ("---\ntitle: on\n---\n# H\ntext", "on"),
        ("---\nTitle: Pump\n---\n# H\ntext", "Pump"),
        ("---\ntitle: [a, b]\n---\n# H\ntext", "H"),
        ('---\ntitle: ""\n---\n# H\ntext', "H"),
        ("---\nabout: one: two\n---\n# H\ntext", "H"),
        ("---\nabout: one: two\n---\ntext", "x"),
        ("+++\ntitle = Pump\n+++\ntext", "Pump"),
        ('<div align="center"><h1>Pump</h1></div>\ntext', "Pump"),
    ],
)
def test_titles_as_they_are_written(text: str, title: str) -> None:
    assert accepted("x.md", text).title == title


def test_a_heading_between_two_lines_is_no_front_matter() -> None:
    record = accepted("x.md", "---\n# Valves\n---\ntext")
    assert (record.title, record.body) == ("Valves", "---\n# Valves\n---\ntext")
