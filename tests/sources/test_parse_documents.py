"""Parsing of whole-file documents: Markdown, text, HTML and PDF."""

import io
import logging
import time

import pytest

from heal_tasks.core.types import Record
from tests.sources.parsing import accepted, parse, refused


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## The *title* ##\n# other", "The title"),
        ("```sh\n# comment\n```\n# Title", "Title"),
        ("~~~\n```\n# comment\n~~~\n# Title", "Title"),
        ("A title\n=======\n# other", "A title"),
        ("---\nA title\n=====", "A title"),
        ("#hashtag and no heading", "notes"),
        ("```\n# never closed", "notes"),
        ("#\n# Title", "Title"),
    ],
)
def test_markdown_titles(text: str, title: str) -> None:
    assert accepted("in/notes.md", text) == Record("in/notes.md", title, text, {}, "in/notes.md", 0)


def test_txt_is_titled_by_its_file_name() -> None:
    assert accepted("in/The plan.txt", "\n text \n") == Record(
        "in/The plan.txt", "The plan", "text", {}, "in/The plan.txt", 0
    )


def test_html_is_what_a_reader_sees() -> None:
    page = """<!DOCTYPE html><html><head><title> The
      page </title><style>p {}</style><body><nav><a>Home</a></nav><!-- note --><script>var x</script>
      <h1>Heading</h1><p>One <b>bold</b>,
      sentence.<br>Next&nbsp;&amp; last.<ul><li>a<li>b</ul>
      <table><tr><td>1</td><td>2</td></tr></table><pre>def f():
    return 1</pre></html>"""
    record = accepted("x.html", page)
    assert record.title == "The page"
    lines = [line.rstrip() for line in record.body.splitlines() if line.strip()]
    text = ["# Heading", "One bold, sentence.", "Next & last.", "a", "b", "1  2"]
    assert [line.strip() for line in lines] == [*text, "```", "def f():", "return 1", "```"]
    assert lines[-2] == "    return 1"


def test_html_titles_and_declared_encodings() -> None:
    assert accepted("x.html", "<h1>A <i>head</i></h1>text").title == "A head"
    assert accepted("in/page.html", "text").title == "page"
    assert accepted("x.html", "<meta charset=latin-1><p>café".encode("latin-1")).body == "café"
    assert accepted("x.html", b"<meta charset=klingon>caf\xe9").metadata == {"encoding_guessed": "windows-1252"}
    assert refused("x.html", "<script>only code</script>").reason.startswith("text is empty")


def test_deeply_nested_html_takes_no_quadratic_time() -> None:
    start = time.process_time()
    (record,) = parse("x.html", "<p>x" * 15_000, max_chars=50_000)
    assert isinstance(record, Record)
    assert record.body.count("x") == 15_000
    assert time.process_time() - start < 10  # changing the tree instead of walking it takes 25 s and more


def _pdf(*pages: str, title: str | None = None, password: str | None = None) -> bytes:
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(content)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    if title is not None:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_pdf_text_title_and_pages() -> None:
    record = accepted("in/paper.pdf", _pdf("First page.", "", "Third page.", title="A paper"))
    assert record == Record("in/paper.pdf", "A paper", "First page.\n\nThird page.", {"pages": 3}, "in/paper.pdf", 0)
    assert accepted("in/paper.pdf", _pdf("Only page.")).title == "paper"


def test_pdfs_that_arerefused(caplog: pytest.LogCaptureFixture) -> None:
    good = _pdf("Some text.")
    with caplog.at_level(logging.DEBUG):
        assert refused("x.pdf", _pdf("", "")).reason.startswith("the PDF has no text on its 2 pages; run text recog")
        assert refused("x.pdf", _pdf("Secret.", password="pw")).reason.startswith("the PDF is encrypted")
        assert refused("x.pdf", b"%PDF-1.4 nothing").reason.startswith("PDF: the file cannot be read (")
        assert refused("x.pdf", good[: len(good) // 3]).reason.startswith("PDF: the file cannot be read (")
        assert refused("x.pdf", _pdf("0123456789"), max_chars=9).reason.startswith("text has 10 characters")
    assert not [
        record for record in caplog.records if record.name.startswith("pypdf") and record.levelno > logging.INFO
    ]
    assert logging.getLogger("pypdf").level == logging.NOTSET


def test_a_pdf_with_an_empty_password_is_read() -> None:
    assert accepted("x.pdf", _pdf("Open to all.", password="")).body == "Open to all."
