"""PDF: broken glyph maps, ligatures, words divided at line ends, columns, titles of programs, tables."""

import codecs
import io
import time
from typing import Any

import pytest

from heal_tasks.sources.pdf_tables import Line, grids_of
from tests.sources.parsing import accepted, refused


def pdf(
    *lines: str, glyphs: dict[int, str] | None = None, kids: str = "3 0 R", count: int = 1, title: str = ""
) -> bytes:
    """A PDF of one page with a line of text per line; ``glyphs`` maps byte codes to hexadecimal UTF-16."""
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    content = f"BT /F1 12 Tf 72 700 Td 14 TL {shown} ET"
    entries = "".join(f"<{code:02x}> <{value}> " for code, value in (glyphs or {}).items())
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /x def /CMapType 2 def "
        "1 begincodespacerange <00> <FF> endcodespacerange 1 beginbfrange <20> <7E> <0020> endbfrange "
        f"{len(glyphs or {})} beginbfchar {entries}endbfchar endcmap end end"
    )
    to_unicode = "/ToUnicode 6 0 R" if glyphs else ""
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {count}>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 5 0 R/Resources<</Font<</F1 4 0 R>>>>>>",
        f"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding{to_unicode}>>",
        f"<</Length {len(content)}>>stream\n{content}\nendstream",
        f"<</Length {len(cmap)}>>stream\n{cmap}\nendstream",
        f"<</Title<{codecs.BOM_UTF16_BE.hex()}{title.encode('utf-16-be').hex()}>>>" if title else "<<>>",
    ]
    out, places = "%PDF-1.4\n", []
    for number, item in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj{item}endobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    out_table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    trailer = f"trailer<</Size {len(objects) + 1}/Root 1 0 R/Info 7 0 R>>\nstartxref\n{len(out)}\n%%EOF"
    return (out + out_table + trailer).encode("latin-1")


@pytest.mark.parametrize("value", ["0000", "D83D", "E0B7", "FFFE", "0007"])
def test_glyphs_that_are_no_characters_are_left_out(value: str) -> None:
    body = accepted("x.pdf", pdf("Turn \x80 the valve", "slowly.", glyphs={0x80: value})).body
    assert body.split() == ["Turn", "the", "valve", "slowly."]


@pytest.mark.parametrize(
    ("value", "letters"), [("FB00", "ff"), ("FB01", "fi"), ("FB02", "fl"), ("FB03", "ffi"), ("FB06", "st")]
)
def test_ligatures_are_letters(value: str, letters: str) -> None:
    assert accepted("x.pdf", pdf("a re\x80ll", glyphs={0x80: value})).body == f"a re{letters}ll"


def test_words_divided_at_line_ends_are_joined() -> None:
    assert accepted("x.pdf", pdf("The retrie-", "val of docu-", "ments.")).body == "The retrieval of documents."


def test_hyphens_that_belong_to_a_word_stay() -> None:
    lines = ("A well-known word, and a well-", "known one; COVID-", "19, Pre-", "Raphaelite")
    assert accepted("x.pdf", pdf(*lines)).body == "A well-known word, and a well-known one; COVID-19, Pre-Raphaelite"


@pytest.mark.parametrize(
    "title",
    [
        "untitled",
        "(anonymous)",
        "Untitled 3",
        "Untitled Document",
        "PowerPoint Presentation",
        "Slide 1",
        "Report final.docx",
        "My table.xlsx - Google Docs",
        "Microsoft Word - report.docx",
        "thesis.dvi",
        "Document1",
        "17",
        "- -",
        "None",
    ],
)
def test_titles_that_programs_made_up_are_none(title: str) -> None:
    assert accepted("in/report.pdf", pdf("Some text.", title=title)).title == "report"


@pytest.mark.parametrize("title", ["Pumps – für Anfänger", "ポンプ", "Untitled works of Klee", "Word - a history"])
def test_titles_in_any_script_are_kept(title: str) -> None:
    assert accepted("x.pdf", pdf("Some text.", title=title)).title in {
        title,
        "x" if title.startswith("Word -") else title,
    }


def test_strange_page_trees() -> None:
    many = accepted("x.pdf", pdf("Text.", kids="3 0 R " * 1000, count=1000))
    assert many.metadata == {"pages": 1000}
    assert refused("x.pdf", pdf("Text.", kids="2 0 R 3 0 R", count=2)).reason.startswith("PDF: page 2 of 2 cannot be")
    assert refused("x.pdf", pdf("")).reason.startswith("the PDF has no text on its 1 pages")


def tabled(style: list[Any], *more: str) -> bytes:
    """A page with a table of reportlab between two sentences."""
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Table

    normal = getSampleStyleSheet()["Normal"]
    note = Paragraph("a long note that needs several lines in its cell, <b>exam-<br/>ple</b> of one", normal)
    rows = [["Part", "Price", "Note"], ["Valve", "5", note], ["Hose", "", "x"]]
    out = io.BytesIO()
    flow = [
        Paragraph("Above it.", normal),
        Table(rows, style=style, colWidths=[120] * 3),
        Paragraph("Below it.", normal),
    ]
    SimpleDocTemplate(out).build([*flow, *(Paragraph(text, normal) for text in more)])
    return out.getvalue()


@pytest.mark.parametrize(
    "style",
    [
        [("GRID", (0, 0), (-1, -1), 1, "black")],
        [("INNERGRID", (0, 0), (-1, -1), 0.2, "grey"), ("BOX", (0, 0), (-1, -1), 2, "black")],
    ],
)
def test_a_table_with_lines_is_a_table(style: list[Any]) -> None:
    assert accepted("x.pdf", tabled(style)).body.split("\n\n") == [
        "Above it.",
        "| Part | Price | Note |\n| --- | --- | --- |\n"
        "| Valve | 5 | a long note that needs several lines in its cell, example of one |\n| Hose |  | x |",
        "Below it.",
    ]


def test_a_cell_that_spans_columns_and_tables_without_lines() -> None:
    grid = ("GRID", (0, 0), (-1, -1), 1, "black")
    spanned = accepted("x.pdf", tabled([("SPAN", (1, 1), (2, 1)), grid])).body
    assert "| Valve | 5 |  |\n| Hose |  | x |" in spanned
    plain = accepted("x.pdf", tabled([("LINEBELOW", (0, 0), (-1, -1), 1, "black")])).body
    assert "|" not in plain
    assert plain.split("\n")[:2] == ["Above it.", "Part Price Note"]


def test_a_drawing_of_thousands_of_lines_is_no_table() -> None:
    from reportlab.pdfgen.canvas import Canvas

    out = io.BytesIO()
    canvas = Canvas(out)
    canvas.drawString(100, 100, "The only text.")
    for number in range(5000):
        canvas.line(number / 10, 0, number / 10, 800)
        canvas.line(0, number / 10, 500, number / 10)
    canvas.save()
    start = time.monotonic()
    assert accepted("x.pdf", out.getvalue()).body == "The only text."
    assert time.monotonic() - start < 15


def test_lines_that_meet_are_one_table() -> None:
    def flat(*places: float, start: float = 0, end: float = 10) -> list[Line]:
        return [Line(place, start, end) for place in places]

    first = flat(0, 5, 10) + flat(100, 105, 110)
    upright = flat(0, 5, 10) + flat(0, 5, 10, start=100, end=110)
    assert [(grid.rows, grid.columns) for grid in grids_of(first, upright)] == [
        ([110, 105, 100], [0, 5, 10]),
        ([10, 5, 0], [0, 5, 10]),
    ]
    assert grids_of(flat(0, 5, 10), flat(20, 25, 30)) == []
    assert grids_of(flat(0, 10), flat(0, 10)) == []
