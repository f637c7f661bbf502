"""Office files that are broken, encrypted or made to cost: refused alone, with the cure, in bounded time and memory."""

import io
import time
import zipfile

import pytest

from tests.sources.formats.office import edited, extended, saved, slides, word, workbook
from tests.sources.parsing import accepted, refused

BOMB = '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
)
MAKERS = {"docx": word, "pptx": slides, "xlsx": workbook}
MAIN = {"docx": "word/document.xml", "pptx": "ppt/presentation.xml", "xlsx": "xl/workbook.xml"}


def zipped(parts: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("kind", MAKERS)
def test_broken_files_are_refused_with_the_cure(kind: str) -> None:
    good = saved(MAKERS[kind]())
    assert accepted(f"x.{kind}", good).body
    for data, reason in [
        (good[: len(good) // 2], "the file is no complete archive (File is not a zip file); save it again"),
        (b"PK\x03\x04 nothing", "the file is no complete archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "the file is encrypted, or in the format before 2007"),
        (zipped({"a.txt": b"text"}), "the file is no "),
        (extended(good, {MAIN[kind]: "<a><b></a>"}), f"{MAIN[kind]} in the file is no XML (mismatched tag"),
        (extended(good, {MAIN[kind]: f"{BOMB}]><d>&j;</d>"}), f"{MAIN[kind]} in the file declares entities"),
        (
            extended(good, {MAIN[kind]: '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><d>&x;</d>'}),
            f"{MAIN[kind]} in the file declares entities",
        ),
        (
            extended(good, {MAIN[kind]: f"{BOMB}]><d>&j;</d>".encode("utf-16")}),
            f"{MAIN[kind]} in the file declares entities",
        ),
    ]:
        assert refused(f"x.{kind}", data).reason.startswith(reason), refused(f"x.{kind}", data).reason


@pytest.mark.parametrize("kind", MAKERS)
def test_a_bomb_is_refused_before_memory_is_full(kind: str) -> None:
    bomb = extended(saved(MAKERS[kind]()), {MAIN[kind]: b"<a>" + b" " * (300 * 2**20)})
    assert len(bomb) < 1_000_000
    start = time.monotonic()
    assert refused(f"x.{kind}", bomb).reason == "the file unpacks to more than 256 MiB; split it"
    assert time.monotonic() - start < 20


def test_deep_and_wide_xml() -> None:
    nested = "<w:p>" * 100_000 + "</w:p>" * 100_000
    for inside in (nested, "<w:tbl><w:tr><w:tc>" * 20_000 + "</w:tc></w:tr></w:tbl>" * 20_000):
        data = edited(saved(word()), MAIN["docx"], "<w:body>", f"<w:body>{inside}")
        start = time.monotonic()
        assert "Which oil" in accepted("x.docx", data).body
        assert time.monotonic() - start < 20


def test_a_huge_sheet_ends_at_the_bound_of_characters() -> None:
    row = '<row><c t="inlineStr"><is><t>x</t></is></c><c r="XFD1"><v>1</v></c></row>'
    sheet = f"<worksheet><sheetData>{row * 200_000}</sheetData></worksheet>"
    data = extended(saved(workbook()), {"xl/worksheets/sheet1.xml": sheet})
    assert "characters, at most 10000 are taken; split it" in refused("x.xlsx", data).reason
    far = '<worksheet><sheetData><row r="1048576"><c r="XFD1048576"><v>7</v></c></row></sheetData></worksheet>'
    assert accepted("x.xlsx", extended(saved(workbook()), {"xl/worksheets/sheet1.xml": far})).body.startswith("## Pri")


def test_an_archive_of_too_many_parts() -> None:
    data = zipped({f"{number}": b"" for number in range(10_001)})
    assert refused("x.docx", data).reason == "the archive has 10001 parts, at most 10000 are read; split it"


def test_macros_are_not_read_and_addresses_are_not_fetched() -> None:
    data = extended(saved(word()), {"word/vbaProject.bin": b"Sub AutoOpen()"})
    link = (
        '<Relationships><Relationship Id="r9" TargetMode="External" Target="http://127.0.0.1:9/x" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/attachedTemplate"/></Relationships>'
    )
    data = extended(data, {"word/_rels/settings.xml.rels": link})
    assert "AutoOpen" not in accepted("x.docm", data).body
    outside = edited(saved(word()), "word/_rels/document.xml.rels", 'Target="styles.xml"', 'Target="/../../etc/passwd"')
    assert "Which oil" in accepted("x.docx", outside).body
