"""Word documents: what a reader sees is kept, with headings, lists and tables; nothing is run or fetched."""

from heal_tasks.sources.formats.docx import extract_docx
from tests.sources.formats.office import edited, extended, related, saved, word

PARAGRAPH = "<w:p><w:r><w:t>Which oil to take.</w:t></w:r></w:p>"
SPACE = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def body(data: bytes) -> str:
    return extract_docx(data, 10_000).body


def changed(new: str) -> str:
    """The blocks of the document in place of its first paragraph."""
    whole = body(edited(saved(word()), "word/document.xml", PARAGRAPH, new))
    return whole.partition("# Oil\n\n")[2].partition("\n\n## Change")[0]


def test_structure() -> None:
    found = extract_docx(saved(word()), 10_000)
    assert found.title == "Pump guide"
    assert found.metadata["author"] == "Ann Writer"
    assert found.body.split("\n\n") == [
        "# Pump guide",
        "# Oil",
        "Which oil to take.",
        "## Change",
        "1. Warm up.\n2. Drain.\n- Rags",
        "| Model | Litres | Note |\n| --- | --- | --- |\n| A1 | 2 | a &#124; b |\n| A1 | 3 |  |",
        "Works Ltd.",
    ]


def test_a_comment_and_its_author() -> None:
    document = word()
    document.add_comment(document.paragraphs[2].runs, text="Which one?", author="Bob")
    assert "Which oil to take.\n\nComment (Bob): Which one?" in body(saved(document))


def test_notes_follow_the_paragraph_that_refers_to_them() -> None:
    run = '<w:p><w:r><w:t>Text</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
    note = (
        f'<w:footnotes {SPACE}><w:footnote w:type="separator" w:id="0"><w:p/></w:footnote>'
        '<w:footnote w:id="2"><w:p><w:r><w:t>A note.</w:t></w:r></w:p></w:footnote></w:footnotes>'
    )
    data = edited(saved(word()), "word/document.xml", PARAGRAPH, run)
    data = related(extended(data, {"word/footnotes.xml": note}), "word/document.xml", "footnotes", "footnotes.xml")
    assert "Text[^2]\n\n[^2]: A note.\n\n## Change" in body(data)


def test_changes_count_as_accepted() -> None:
    inserted = "<w:ins><w:r><w:t>new</w:t></w:r></w:ins>"
    deleted = "<w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:moveFrom><w:r><w:t>gone</w:t></w:r></w:moveFrom>"
    assert changed(f"<w:p><w:r><w:t>The </w:t></w:r>{deleted}{inserted}</w:p>") == "The new"


def test_controls_links_boxes_and_fields_are_read_once() -> None:
    assert changed(f"<w:sdt><w:sdtContent>{PARAGRAPH}</w:sdtContent></w:sdt>") == "Which oil to take."
    assert changed("<w:p><w:hyperlink><w:r><w:t>A link</w:t></w:r></w:hyperlink></w:p>") == "A link"
    field = "<w:r><w:instrText>HYPERLINK x</w:instrText></w:r><w:r><w:t>shown</w:t></w:r>"
    assert changed(f"<w:p>{field}</w:p>") == "shown"
    box = f"<w:txbxContent>{PARAGRAPH}</w:txbxContent>"
    mc = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    either = (
        f"<mc:AlternateContent {mc}><mc:Choice><w:drawing>{box}</w:drawing></mc:Choice>"
        f"<mc:Fallback><w:pict>{box}</w:pict></mc:Fallback></mc:AlternateContent>"
    )
    assert changed(f"<w:p><w:r><w:t>Before</w:t>{either}</w:r></w:p>") == "Before\n\nWhich oil to take."


def test_nested_tables_and_frames() -> None:
    cell = f"<w:tc>{PARAGRAPH}</w:tc>"
    assert changed(f"<w:tbl><w:tr>{cell}</w:tr></w:tbl>") == "Which oil to take."
    inner = f"<w:tbl><w:tr>{cell}{cell}</w:tr></w:tbl>"
    wide = f'<w:tc><w:tcPr><w:gridSpan w:val="2"/></w:tcPr>{inner}<w:p/></w:tc>'
    assert changed(f"<w:tbl><w:tr>{wide}{cell}</w:tr><w:tr>{cell * 3}</w:tr></w:tbl>").splitlines()[0] == (
        "| Which oil to take., Which oil to take. |  | Which oil to take. |"
    )


def test_words_with_readings_above_them_are_read_without_these() -> None:
    reading = "<w:rt><w:r><w:t>とうきょう</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>東京</w:t></w:r></w:rubyBase>"
    assert changed(f"<w:p><w:r><w:ruby>{reading}</w:ruby></w:r><w:r><w:t>に行く</w:t></w:r></w:p>") == "東京に行く"


def test_a_row_that_begins_at_a_later_column() -> None:
    cells = [f"<w:tc><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>" for text in "abc"]
    later = '<w:trPr><w:gridBefore w:val="1"/></w:trPr>'
    rows = f"<w:tr>{''.join(cells)}</w:tr><w:tr>{later}{cells[1]}{cells[2]}</w:tr>"
    assert changed(f"<w:tbl>{rows}</w:tbl>").splitlines()[2] == "|  | b | c |"
