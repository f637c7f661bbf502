"""Workbooks: tables with their headers, numbers as they are shown, comments and charts, hidden sheets."""

import datetime
import time

import pytest

from heal_tasks.sources.formats.sheets import Number, sheet_tables
from heal_tasks.sources.formats.xlsx import extract_xlsx
from tests.sources.formats.office import edited, saved, workbook


def body(book: object) -> str:
    return extract_xlsx(saved(book), 100_000).body


def test_structure() -> None:
    found = extract_xlsx(saved(workbook()), 10_000)
    assert found.metadata["sheets"] == 3
    assert found.body.split("\n\n") == [
        "## Prices",
        "Prices of the year",
        "| Part | Price | Since | Rebate |\n| --- | --- | --- | --- |\n| Valve | 0.3 | 2024-02-29 | 12.5% |\n"
        "| Valve | 12 | 2024-03-01 13:30:00 | 0 |",
        "| Part | Price | Since | Rebate |\n| --- | --- | --- | --- |\n| Hose | 4 |  |  |",
        "Comment on B3 (Eve): Ask Bob first.",
        "## Sums",
        "| Name | Sum |\n| --- | --- |\n| all | =1+1 |",
        "## Old",
        "Prices of last year",
    ]


def test_the_value_of_a_formula_counts_if_it_is_kept() -> None:
    data = edited(saved(workbook()), "xl/worksheets/sheet2.xml", "<f>1+1</f><v></v>", "<f>1+1</f><v>2</v>")
    assert "| all | 2 |" in extract_xlsx(data, 10_000).body


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (45_000, "yyyy-mm-dd", "2023-03-15"),
        (45_000.5, "d. mmmm yyyy", "2023-03-15 12:00:00"),
        (0.75, "[hh]:mm", "18:00:00"),
        (3, '0 "days"', "3"),
        (3, "[Red]0.0", "3"),
        (0.07, "0%", "7%"),
        (1e21, "General", "1e+21"),
        (True, "General", "TRUE"),
        (datetime.timedelta(hours=37.5), "[h]:mm", "37:30:00"),
        (datetime.timedelta(hours=30), "[h]:mm:ss", "30:00:00"),
        (-0.25, "[h]:mm", "-06:00:00"),
        (1.5, "[Red]hh:mm", "1899-12-31 12:00:00"),
        ("#N/A", "General", "#N/A"),
    ],
)
def test_numbers_as_they_are_shown(value: object, form: str, shown: str) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["Name", "Value"])
    book.active.append(["x", value])
    book.active["B2"].number_format = form
    assert f"| x | {shown} |" in body(book)


def test_escapes_of_texts() -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["Name", "Note"])
    book.active.append(["x", "PLACE"])
    text = "one_x000D_\ntwo_x000b_three _x005F_x000D_ _x12_"
    data = edited(saved(book), "xl/worksheets/sheet1.xml", "PLACE", text)
    assert "| x | one two three _x000D_ _x12_ |" in extract_xlsx(data, 1000).body


def test_a_table_of_many_rows_is_one_table_and_reading_stops_at_the_bound() -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in range(2000):
        book.active.append(["Name", "Value"] if not row else [f"name {row}", row])
    whole = body(book)
    assert whole.count("\n| ") == 2001
    assert len(extract_xlsx(saved(book), 100).body) < 400


def test_a_long_text_above_a_table_takes_linear_time() -> None:
    rows: list[tuple[int, dict[int, str | Number]]] = [(row, {0: f"line {row}"}) for row in range(40_000)]
    start = time.monotonic()
    found = list(sheet_tables([*rows, (40_000, {0: "a", 1: "b"})], [], 10**7))
    assert time.monotonic() - start < 5
    assert found[0] == "line 0"
    assert found[-2:] == ["line 39999", "| a | b |\n| --- | --- |"]
    assert list(sheet_tables(rows[:2], [], 1000)) == ["- line 0", "- line 1"]
    assert list(sheet_tables([(0, {0: "Sum"}), (1, {0: Number("7")}), (2, {0: "a", 1: "b"})], [], 1000)) == [
        "Sum", "| 7 |  |\n| --- | --- |\n| a | b |",
    ]  # fmt: skip


def test_charts() -> None:
    import openpyxl
    from openpyxl.chart import BarChart, Reference

    book = workbook()
    chart = BarChart()
    chart.title = "Rise of prices"
    chart.add_data(Reference(book.active, min_col=2, min_row=2, max_row=4), titles_from_data=True)
    book.active.add_chart(chart, "F1")
    assert "Rise of prices" in body(book)
    del openpyxl
