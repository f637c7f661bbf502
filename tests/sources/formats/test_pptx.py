"""Presentations: a heading per slide, and all that is on it or said with it."""

from heal_tasks.sources.formats.pptx import extract_pptx
from tests.sources.formats.office import edited, extended, related, saved, slides

COMMENTS = (
    '<p:cmLst xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main">'
    '<p:cm authorId="0"><p:text>Too much.</p:text></p:cm></p:cmLst>'
)
DIAGRAM = (
    '<dgm:dataModel xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><dgm:ptLst><dgm:pt><dgm:t><a:p><a:r><a:t>'
    "Step one</a:t></a:r></a:p></dgm:t></dgm:pt></dgm:ptLst></dgm:dataModel>"
)


def test_structure() -> None:
    found = extract_pptx(saved(slides()), 10_000)
    assert found.title == "Plan of the year"
    assert found.metadata["slides"] == 2
    assert found.body.split("\n\n") == [
        "## Plan of the year",
        "- First aim\n  - Its reason",
        "In a group",
        "| Site | Cost |\n| --- | --- |\n| Graz | 7 |\n| Graz | 8 |",
        "Notes: Say it slowly.",
        "## Slide 2",
        "Sales by month",
        "|  | Sales |\n| --- | --- |\n| May | 1.5 |\n| June | 2 |",
    ]


def test_a_hidden_slide_is_read() -> None:
    hidden = edited(saved(slides()), "ppt/slides/slide1.xml", "<p:sld ", '<p:sld show="0" ')
    assert extract_pptx(hidden, 10_000) == extract_pptx(saved(slides()), 10_000)


def test_comments_and_diagrams() -> None:
    place = "ppt/slides/slide2.xml"
    data = extended(saved(slides()), {"ppt/comments/comment1.xml": COMMENTS})
    found = extract_pptx(related(data, place, "comments", "../comments/comment1.xml"), 10_000)
    assert found.body.endswith("Comment (unknown): Too much.")
    frame = (
        '<p:graphicFrame><a:graphic xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><a:graphicData>'
        '<dgm:relIds xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" '
        'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" r:dm="rX"/>'
        "</a:graphicData></a:graphic></p:graphicFrame></p:spTree>"
    )
    data = edited(extended(saved(slides()), {"ppt/diagrams/data1.xml": DIAGRAM}), place, "</p:spTree>", frame)
    found = extract_pptx(related(data, place, "diagramData", "../diagrams/data1.xml"), 10_000)
    assert found.body.endswith("- Step one")


def test_reading_stops_when_there_is_more_text_than_may_be() -> None:
    assert len(extract_pptx(saved(slides()), 10).body) < 200
