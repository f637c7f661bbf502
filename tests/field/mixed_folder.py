"""A folder of mixed files as people keep them, each with a sentence of its own in every place where text can be."""

import csv
import io
import json
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import docx
import openpyxl
import pptx
import pyarrow
from openpyxl.chart import BarChart, Reference
from openpyxl.comments import Comment
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches
from pyarrow import parquet
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

from tests.sources.formats.office import edited, extended, related, saved
from tests.sources.formats.test_others import epub

Plant = Callable[[str], str]
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


class Garden:
    """Planted sentences, with the file and place of each."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}  # place by its word
        self.files: dict[str, bytes] = {}

    def add(self, name: str, make: Callable[[Plant], bytes]) -> None:
        """Make a file; the function gets what plants a sentence in a place of it."""

        def plant(place: str) -> str:
            word = f"plant{len(self.planted):04d}"
            self.planted[word] = f"{name}: {place}"
            return f"The {word} grows here."

        self.files[name] = make(plant)


def word_file(plant: Plant, rows: int = 3) -> bytes:
    """Headings, lists, a table, margins, a comment, notes, a text box, a link, an insertion, a content control."""
    document = docx.Document()
    document.add_heading(plant("title"), 0)
    document.add_heading(plant("heading"), 1)
    document.add_paragraph(plant("paragraph"))
    document.add_heading(plant("second heading"), 2)
    for style in ("List Bullet", "List Number", "Quote"):
        document.add_paragraph(plant(style), style=style)
    table = document.add_table(rows, 3)
    for number, row in enumerate(table.rows):
        for column, cell in enumerate(row.cells):
            cell.text = plant(f"cell {number} {column}")
    table.cell(0, 0).merge(table.cell(0, 1))
    section = document.sections[0]
    section.header.paragraphs[0].text, section.footer.paragraphs[0].text = plant("header"), plant("footer")
    document.add_comment(document.add_paragraph("Commented.").runs, text=plant("comment"), author="Ann")
    data = saved(document)

    def run(text: str) -> str:
        return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"

    more = (
        f'<w:p><w:r><w:t>{plant("before a note")}</w:t><w:footnoteReference w:id="7"/></w:r></w:p>'
        f"<w:p><w:hyperlink><w:r><w:t>{plant('link')}</w:t></w:r></w:hyperlink></w:p>"
        f"<w:p><w:ins><w:r><w:t>{plant('insertion')}</w:t></w:r></w:ins></w:p>"
        f"<w:p><w:r><w:pict><w:txbxContent>{run(plant('text box'))}</w:txbxContent></w:pict></w:r></w:p>"
        f"<w:sdt><w:sdtContent>{run(plant('content control'))}</w:sdtContent></w:sdt>"
    )
    data = edited(data, "word/document.xml", "<w:sectPr", f"{more}<w:sectPr")
    notes = f'<w:footnotes {W}><w:footnote w:id="7">{run(plant("footnote"))}</w:footnote></w:footnotes>'
    return related(extended(data, {"word/footnotes.xml": notes}), "word/document.xml", "footnotes", "footnotes.xml")


def workbook_file(plant: Plant, rows: int = 5) -> bytes:
    """A first, a second and a hidden sheet, merged cells, a comment and a chart."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append([plant("line above the table")])
    sheet.append(["Name", "Price", "Note"])
    for number in range(rows):
        sheet.append([None if number == 1 else plant(f"cell {number}"), number, plant(f"note {number}")])
    sheet.merge_cells("A3:A4")
    sheet["B3"].comment = Comment(plant("comment"), "Eve")
    chart = BarChart()
    chart.title = plant("title of a chart")
    chart.add_data(Reference(sheet, min_col=2, min_row=2, max_row=4), titles_from_data=True)
    sheet.add_chart(chart, "F1")
    book.create_sheet("Second")["D9"] = plant("second sheet")
    hidden = book.create_sheet("Hidden")
    hidden.sheet_state = "hidden"
    hidden["A1"] = plant("hidden sheet")
    return saved(book)


def slides_file(plant: Plant, count: int = 2) -> bytes:
    """Slides with a list, a group, a table, a chart and notes."""
    deck = pptx.Presentation()
    for number in range(count):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = plant(f"title of slide {number}")
        slide.placeholders[1].text = f"{plant('bullet')}\n{plant('second bullet')}"
        slide.notes_slide.notes_text_frame.text = plant("notes")
        group = slide.shapes.add_group_shape()
        group.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = plant("group")
        table = slide.shapes.add_table(2, 2, 0, 0, Inches(4), Inches(1)).table
        for row in range(2):
            for column in range(2):
                table.cell(row, column).text = plant(f"cell {row} {column}")
        data = CategoryChartData()
        data.categories = [plant("category"), "other"]
        data.add_series(plant("series"), (1, 2))
        slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(3), Inches(3), data)
    return saved(deck)


def pdf_file(plant: Plant, pages: int = 2) -> bytes:
    """Pages with a heading, a paragraph and a table."""
    out = io.BytesIO()
    styles = getSampleStyleSheet()
    flow: list[Any] = []
    for _ in range(pages):
        flow += [Paragraph(plant("heading"), styles["Heading1"]), Paragraph(plant("paragraph"), styles["Normal"])]
        rows = [["Name", "Note"], *([plant("cell"), plant("cell")] for _ in range(3))]
        flow += [Table(rows, style=[("GRID", (0, 0), (-1, -1), 1, "black")]), PageBreak()]
    SimpleDocTemplate(out).build(flow)
    return out.getvalue()


def page_file(plant: Plant) -> bytes:
    """A heading, a paragraph, a list, a table with its caption, details and code."""
    return (
        f"<html><head><title>{plant('title')}</title></head><body><nav>Menu</nav><h1>{plant('heading')}</h1>"
        f"<p>{plant('paragraph')}<ul><li>{plant('item')}</ul><table><caption>{plant('caption')}</caption>"
        f"<tr><th>{plant('column')}<th>B<tr><td>{plant('cell')}<td>2</table><details>{plant('details')}</details>"
        f"<pre>code\n{plant('code')}</pre><a href=x>{plant('link')}</a></body></html>"
    ).encode()


def markdown_file(plant: Plant) -> bytes:
    """Front matter, headings, a list, a table, code and a note."""
    return (
        f"---\ntitle: {plant('title')}\n---\n# {plant('heading')}\n\n{plant('paragraph')}[^1]\n\n- {plant('item')}\n\n"
        f"| A | B |\n|---|---|\n| {plant('cell')} | 2 |\n\n```\n{plant('code')}\n```\n\n[^1]: {plant('note')}\n"
    ).encode()


def rst_file(plant: Plant) -> bytes:
    """A title, a list, a directive that Sphinx adds, a table, code, a definition and a note."""
    cell = plant("cell")
    rule = f"+{'-' * (len(cell) + 2)}+---+"
    return (
        f"{plant('title')}\n{'=' * 60}\n\n{plant('paragraph')} [1]_\n\n* {plant('item')}\n\n.. versionadded:: 1\n"
        f"   {plant('directive')}\n\n.. code-block:: python\n\n   x = '{plant('code')}'\n\n"
        f"term\n  {plant('definition')}\n\n"
        f"{rule}\n| {cell} | 1 |\n{rule}\n\n.. [1] {plant('note')}\n"
    ).encode()


def notebook_file(plant: Plant) -> bytes:
    """A cell of text, and one of code with its output."""
    output = {"output_type": "stream", "text": [plant("output")]}
    cells = [
        {"cell_type": "markdown", "source": [f"# {plant('heading')}\n", plant("text")]},
        {"cell_type": "code", "source": f"# {plant('code')}", "outputs": [output]},
    ]
    return json.dumps({"nbformat": 4, "metadata": {}, "cells": cells}).encode()


def mail_file(plant: Plant) -> bytes:
    """Subject, text, and attachments of five kinds, one of them a mail with an attachment."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = f"{plant('sender')} <a@example.org>", "b@example.org", plant("subject")
    mail.set_content("Look at the HTML.")
    mail.add_alternative(f"<h1>{plant('heading')}</h1><p>{plant('text')}", subtype="html")
    for name, make in (("a.docx", word_file), ("b.xlsx", workbook_file), ("c.pptx", slides_file), ("d.pdf", pdf_file)):
        mail.add_attachment(make(plant), maintype="application", subtype="octet-stream", filename=name)
    inner = EmailMessage()
    inner["From"], inner["Subject"] = "c@example.org", plant("subject of an attached mail")
    inner.set_content(plant("text of an attached mail"))
    inner.add_attachment(plant("attachment of an attached mail"), filename="e.txt")
    mail.add_attachment(inner)
    return mail.as_bytes()


def book_file(plant: Plant) -> bytes:
    """Two chapters."""
    chapter = "<html><body><h1>{}</h1><p>{}</p></body></html>"
    names = ("OEBPS/a b.xhtml", "OEBPS/text/b.xhtml")
    return extended(epub(), {name: chapter.format(plant("heading"), plant("paragraph")) for name in names})


def rows_of(plant: Plant, count: int = 4) -> list[dict[str, object]]:
    """Records of a table."""
    return [{"id": plant("id"), "title": plant("title"), "text": plant("text")} for _ in range(count)]


def csv_file(plant: Plant, delimiter: str = ",") -> bytes:
    """A table with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, ["id", "title", "text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows_of(plant))
    return out.getvalue().encode()


def parquet_file(plant: Plant) -> bytes:
    """A table of documents."""
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows_of(plant)), out)
    return out.getvalue()


def lines_file(plant: Plant) -> bytes:
    """JSON Lines."""
    return "".join(f"{json.dumps(row)}\n" for row in rows_of(plant)).encode()
