"""Charts of office files as tables: the values that the file keeps beside the picture."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from heal_tasks.sources.formats import markup
from heal_tasks.sources.formats.ooxml import attribute, descendants, first


def chart_table(root: Element | None) -> Iterator[str]:
    """Titles of a chart, and a table with a row per category and a column per series."""
    for title in descendants(root, "title"):
        yield " ".join("".join(node.text or "" for node in descendants(title, "t")).split())
    names: list[str] = [""]
    values: list[dict[int, str]] = []
    categories: dict[int, str] = {}
    for series in descendants(root, "ser"):
        names.append(" ".join(_points(first(series, "tx")).values()))
        categories = categories or _points(first(series, "cat")) or _points(first(series, "xVal"))
        values.append(_points(first(series, "val")) or _points(first(series, "yVal")))
    places = sorted({*categories, *(place for column in values for place in column)})
    yield markup.table([names, *([categories.get(place, ""), *(column.get(place, "") for column in values)]
                                 for place in places)])  # fmt: skip


def _points(element: Element | None) -> dict[int, str]:
    """The values that are kept of a reference, by place."""
    found = {}
    for point in descendants(element, "pt"):
        value, place = first(point, "v"), attribute(point, "idx")
        if value is not None and value.text and place.isdecimal():
            found[int(place)] = value.text.strip()
    if not found and (value := next(descendants(element, "v"), None)) is not None and value.text:
        found[0] = value.text.strip()
    return found
