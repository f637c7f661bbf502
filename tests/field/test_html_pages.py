"""HTML pages: titles, hidden parts, parts that nobody closed, entities."""

import time

import pytest

from tests.sources.parsing import accepted, parse, refused


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<title></title><h1>Manual</h1>x", "Manual"),
        ("<title> &nbsp; </title><h1><img alt=logo></h1><h1>Second</h1>x", "Second"),
        ("<body><svg><title>Icon</title></svg><h1>Manual</h1>x", "Manual"),
        ("<svg><g><title>Icon</title></g></svg>x", "page"),
        ("<title>A &amp; B &#8364</title>x", "A & B €"),
        ("<h1>Stop <script>var x</script>the <b>pump</b></h1>x", "Stop the pump"),
    ],
)
def test_titles(page: str, title: str) -> None:
    assert accepted("in/page.html", page).title == title


@pytest.mark.parametrize(
    "hidden",
    [
        "<div hidden>NO</div>",
        "<p style='color:red; Display : none'>NO</p>",
        "<span style='visibility:hidden'>NO</span>",
        "<template><p>NO</p></template>",
        "<dialog>NO</dialog>",
        "<noscript>NO</noscript>",
        "<nav><a>NO</a></nav>",
        "<iframe>NO</iframe>",
        "<!-- NO -->",
        "<script>NO</script><style>NO</style>",
        "<svg><title>NO</title><desc>NO</desc></svg>",
        "<video>NO</video><canvas>NO</canvas><object>NO</object>",
        "<datalist><option>NO</datalist>",
    ],
)
def test_hidden_parts_are_no_text(hidden: str) -> None:
    body = accepted("x.html", f"<title>t</title><body><p>before</p>{hidden}<p>after</p>").body
    assert body.split() == ["before", "after"]


@pytest.mark.parametrize(
    "shown",
    [
        "<div aria-hidden=true>YES</div>",
        "<div hidden=until-found>YES</div>",
        "<dialog open>YES</dialog>",
        "<details><summary>s</summary>YES</details>",
        "<textarea>YES</textarea>",
        "<select><option value=3>YES</select>",
        "<div style='display:inline'>YES</div>",
        "<svg><text>YES</text></svg>",
        "<nav><ul><li>Home</ul><p>YES",
        "<nav><a>x</a></nav><nav>YES",
        "<noscript>YES",
    ],
)
def test_visible_parts_and_parts_that_nobody_closed_are_text(shown: str) -> None:
    assert "YES" in accepted("x.html", f"<title>t</title><body>{shown}").body


def test_entities_breaks_and_tables() -> None:
    page = "<p>5 &lt; 6 &amp;lt; &#8364 &#x20AC; caf&eacute &notit;<br>next<br/>last"
    assert accepted("x.html", page).body == "5 < 6 &lt; € € café ¬it;\nnext\nlast"
    ruby = "<p><ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp>字<rt>じ</rt></ruby>を読む"
    assert accepted("x.html", ruby).body == "漢字を読む"
    table = "<table><tr><th>Part<th>Price<tr><td>Valve<td>5</table>"
    assert accepted("x.html", table).body == "| Part | Price |\n| --- | --- |\n| Valve | 5 |"


def test_pages_without_text_are_refused() -> None:
    for page in ("<frameset><frame></frameset>", "<!-- never closed", "<title>only</title>"):
        assert refused("x.html", page).reason.startswith("text is empty")


@pytest.mark.parametrize(
    ("page", "body"),
    [
        ("<p>first</p><nav>menu<!-- </nav> --><p>article", "first\n\nmenu\narticle"),
        ("<nav><h1>T</h1><p>all of it</nav>", "# T\n\nall of it"),
        ("<nav>menu</nav><p>text", "text"),
        ('<body style="display:none"><p>shown by a script</body>', "shown by a script"),
        ("<body hidden><p>text<p hidden>not this</body>", "text"),
    ],
)
def test_a_menu_or_a_hidden_body_does_not_swallow_the_page(page: str, body: str) -> None:
    assert accepted("x.html", page).body.replace("\n\n\n", "\n\n") == body


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (
            "<caption>Sums <b>of</b> all</caption><thead><tr><th>A<th>B</thead><tr><td>1<td>2 <p>3</p>",
            ["Sums of all", "| A | B |", "| --- | --- |", "| 1 | 2 3 |"],
        ),
        (
            "<tr><th>A<th>B<th>C<tr><td rowspan=2>x<td>1<td>p<tr><td>2<td>q",
            ["| A | B | C |", "| --- | --- | --- |", "| x | 1 | p |", "| x | 2 | q |"],
        ),
        ("<tr><th colspan=2>A<th>C<tr><td>1<td>2<td>3", ["| A |  | C |", "| --- | --- | --- |", "| 1 | 2 | 3 |"]),
        ("<tr><td>one<tr><td>column", ["one", "column"]),
        ("<tr><td>menu<td><h2>Part</h2>text<tr><td>a<td>b", ["menu", "## Part", "text", "a  b"]),
    ],
)
def test_tables_of_data_and_of_layout(rows: str, lines: list[str]) -> None:
    body = accepted("x.html", f"<body><table>{rows}</table></body>").body
    assert [line.strip() for line in body.splitlines() if line.strip()] == lines


def test_headings_are_lines_and_code_is_fenced() -> None:
    page = "<h2>A <i>long</i>\nheading</h2><div><h7>x</h7><pre># comment\ncode</pre><h3></h3><pre>one line</pre>"
    assert accepted("x.html", page).body == "## A long heading\n\nx\n\n```\n# comment\ncode\n```\n\none line"
    code = accepted("x.html", "<pre>```\n# x\n```</pre>after").body
    assert code == "````\n```\n# x\n```\n````\n\nafter"


@pytest.mark.parametrize(
    "part", ["<table><tr><td>", "<h1><div>", "<pre>\n<div>", "<table><tr><td rowspan=9 colspan=9>x"]
)
def test_deep_tables_and_headings_take_no_quadratic_time(part: str) -> None:
    start = time.monotonic()
    parse("x.html", f"visible {part * 5000}", max_chars=1_000_000)
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    "start", ['<?xml version="1.0"?>\n<html>', '<!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml">']
)
def test_empty_elements_of_xhtml_do_not_take_in_what_follows(start: str) -> None:
    head = '<head><title/><script src="a.js"/><style media="print" /></head>'
    body = '<h2 id="top"/><p>one<br/>two</p><iframe src="x"/><object data="y" /><p>three</p><hr/><noscript/>four'
    record = accepted("x.xhtml", f"{start}{head}<body>{body}</body></html>")
    assert (record.title, record.body.split()) == ("x", ["one", "two", "three", "four"])
    # A browser takes a page for HTML that does not say so.
    page = f"<html><head><title>t</title></head><body>{body}</body></html>"
    assert accepted("x.html", page).body.split() == ["##", "one", "two"]
