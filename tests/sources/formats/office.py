"""Office files for tests, written by the libraries that people write them with."""

import datetime
import io
import re
import zipfile
from typing import Any


def saved(document: Any) -> bytes:
    """The bytes of a document of python-docx, python-pptx or openpyxl."""
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def edited(data: bytes, name: str, old: str, new: str) -> bytes:
    """An archive with a text in one of its parts replaced; every occurrence, and there has to be one."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename == name:
                assert old.encode() in content, content
                content = content.replace(old.encode(), new.encode())
            target.writestr(info.filename, content)
    return out.getvalue()


def extended(data: bytes, parts: dict[str, str | bytes]) -> bytes:
    """An archive with parts added or replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            if info.filename not in parts:
                target.writestr(info.filename, source.read(info))
        for name, content in parts.items():
            target.writestr(name, content)
    return out.getvalue()


def related(data: bytes, place: str, kind: str, target: str) -> bytes:
    """An archive whose part at a place refers to another one, with the id ``rX``."""
    folder, _, name = place.rpartition("/")
    rels = f"{folder}/_rels/{name}.rels"
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        old = source.read(rels).decode() if rels in source.namelist() else "<Relationships></Relationships>"
    space = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    line = f'<Relationship Id="rX" Type="{space}/{kind}" Target="{target}"/></Relationships>'
    return extended(data, {rels: re.sub(r"</Relationships>|/>\s*$(?!.)", line, old, count=1)})


def word() -> Any:
    """A document with a title, two levels of headings, lists, a table with merged cells, and margins."""
    import docx

    document = docx.Document()
    document.core_properties.title = "Word Document"
    document.core_properties.author = "Ann Writer"
    document.add_heading("Pump guide", 0)
    document.add_heading("Oil", 1)
    document.add_paragraph("Which oil to take.")
    document.add_heading("Change", 2)
    document.add_paragraph("Warm up.", style="List Number")
    document.add_paragraph("Drain.", style="List Number")
    document.add_paragraph("Rags", style="List Bullet")
    table = document.add_table(3, 3)
    for row, texts in enumerate([("Model", "Litres", "Note"), ("A1", "2", "a | b"), ("", "3", "")]):
        for cell, text in zip(table.rows[row].cells, texts, strict=True):
            cell.text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    section = document.sections[0]
    section.header.paragraphs[0].text = "Works Ltd."
    section.footer.paragraphs[0].text = "12"
    return document


def slides() -> Any:
    """A presentation of two slides: lists, a group, a table, a chart and notes."""
    import pptx
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Plan of\nthe year"
    frame = slide.placeholders[1].text_frame
    frame.text = "First aim"
    below = frame.add_paragraph()
    below.text, below.level = "Its reason", 1
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = "In a group"
    table = slide.shapes.add_table(3, 2, 0, 0, Inches(4), Inches(1)).table
    for row, texts in enumerate([("Site", "Cost"), ("Graz", "7"), ("", "8")]):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    other = deck.slides.add_slide(deck.slide_layouts[6])
    data = CategoryChartData()
    data.categories = ["May", "June"]
    data.add_series("Sales", (1.5, 2))
    frame = other.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(3), Inches(3), data)
    frame.chart.has_title = True
    frame.chart.chart_title.text_frame.text = "Sales by month"
    return deck


def workbook() -> Any:
    """A workbook of three sheets: dates, percentages, merged cells, a comment, a formula, a hidden sheet."""
    import openpyxl
    from openpyxl.comments import Comment

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Prices"
    rows = [
        ["Prices of the year"],
        ["Part", "Price", "Since", "Rebate"],
        ["Valve", 0.1 + 0.2, datetime.date(2024, 2, 29), 0.125],
        [None, 12, datetime.datetime(2024, 3, 1, 13, 30), 0],
        [],
        ["Hose", 4],
    ]
    for row in rows:
        sheet.append(row)
    sheet.merge_cells("A3:A4")
    sheet["D3"].number_format = "0.0%"
    sheet["B3"].comment = Comment("Ask Bob first.", "Eve")
    other = book.create_sheet("Sums")
    other["B2"], other["C2"], other["B3"], other["C3"] = "Name", "Sum", "all", "=1+1"
    hidden = book.create_sheet("Old")
    hidden.sheet_state = "hidden"
    hidden["C7"] = "Prices of last year"
    return book
