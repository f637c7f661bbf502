"""Encodings as browsers and table programs mean them, and the only one that is guessed."""

import pytest

from tests.sources.parsing import accepted, refused


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("iso-8859-1", "cp1252", "“smart” – 5 €"),
        ("latin1", "cp1252", "it’s"),
        ("ascii", "cp1252", "naïve…"),
        ("gb2312", "gb18030", "朱镕基的水泵"),
        ("gbk", "gb18030", "阀门㐀"),
        ("shift_jis", "cp932", "手順① 髙橋"),
        ("x-sjis", "cp932", "ポンプ"),
        ("euc-kr", "cp949", "똠방각하 펎프"),
        ("ks_c_5601-1987", "cp949", "펌프"),
        ("big5", "big5", "水泵"),
        ("iso-8859-9", "cp1254", "ağır “kapı”"),
        ("tis-620", "cp874", "ปั๊ม…"),
        ("iso-2022-jp", "iso2022_jp", "ポンプを止める"),
        ("windows-1251", "cp1251", "насос"),
    ],
)
def test_labels_by_the_table_of_browsers(label: str, codec: str, text: str) -> None:
    page = f'<html><head><meta charset="{label}"><title>{text}</title></head><body><p>{text}</p>'.encode(codec)
    record = accepted("x.html", page)
    assert (record.title, record.body, record.metadata) == (text, text, {})


@pytest.mark.parametrize(
    "head",
    [
        '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-2">',
        "<!-- <meta charset=windows-1251> --><META CHARSET='iso-8859-2'>",
        '<?xml version="1.0" encoding="ISO-8859-2"?>',
    ],
)
def test_places_of_a_declaration(head: str) -> None:
    assert accepted("x.xhtml", f"{head}<p>zażółć".encode("iso-8859-2")).body == "zażółć"


@pytest.mark.parametrize("label", ["utf-16", "iso-8859-1", "windows-1251", "klingon"])
def test_utf8_counts_before_a_wrong_declaration(label: str) -> None:
    assert accepted("x.htm", f"<meta charset={label}><p>für 水".encode()).body == "für 水"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_or_zero_bytes_count_first(encoding: str) -> None:
    page = "<html><head><meta charset=iso-8859-1></head><body>für den Ventilmeister"
    assert accepted("x.html", page.encode(encoding)).body == "für den Ventilmeister"


def test_single_wrong_bytes_in_a_declared_encoding_cost_single_characters() -> None:
    page = b"<meta charset=utf-8><p>" + b"good text " * 30 + b"\xff"
    assert accepted("x.html", page).metadata == {"encoding_guessed": "windows-1252"}
    page = b"<meta charset=gb2312><p>" + "水泵每周必须加油".encode("gb18030") * 10 + b"\xff"
    assert accepted("x.html", page).body.count("\ufffd") == 1


@pytest.mark.parametrize("path", ["x.txt", "x.md", "x.html", "x.csv"])
@pytest.mark.parametrize("damage", [b"\xff", "ö".encode()[:1]])
@pytest.mark.parametrize("text", ["The café in Köln – 5 € a day, naïve", "Насос нужно смазывать", "水泵每周必须加油"])
def test_a_wrong_byte_in_utf8_costs_a_character_and_not_the_letters_of_all(path: str, damage: bytes, text: str) -> None:
    start = "id;text\n1;" if path == "x.csv" else "<meta charset=iso-8859-1>" if path == "x.html" else ""
    record = accepted(path, (start + text).encode() + damage)
    assert (record.body, record.metadata) == (f"{text}\ufffd", {})


def test_lines_in_utf8_and_windows_1252_in_one_text_are_no_western_text() -> None:
    mixed = "Größe über öl\n".encode() * 3 + "Größe\n".encode("cp1252") * 3
    assert "convert it to UTF-8" in refused("x.txt", mixed).reason


@pytest.mark.parametrize("path", ["x.txt", "x.md", "x.html"])
@pytest.mark.parametrize(
    "text", ["Café", "Größere Ventile öffnen sich über fünf Bar", "“smart” – it’s 5 €", "¿Cuándo? Mañana, señor"]
)
def test_western_text_without_a_declaration_is_guessed_and_noted(path: str, text: str) -> None:
    record = accepted(path, text.encode("cp1252"))
    assert (record.body, record.metadata) == (text, {"encoding_guessed": "windows-1252"})


@pytest.mark.parametrize("path", ["x.txt", "x.md", "x.html"])
@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Насос нужно смазывать", "cp1251"),
        ("Насос нужно смазывать", "koi8-r"),
        ("ポンプは毎週注油してください", "cp932"),
        ("水泵每周必须加油。较大的阀门", "gb18030"),
        ("펌프는 매주 기름칠해야", "cp949"),
        ("يجب تشحيم المضخة", "cp1256"),
    ],
)
def test_other_text_without_a_declaration_is_refused_instead_of_stored_in_wrong_letters(
    path: str, text: str, codec: str
) -> None:
    assert "convert it to UTF-8" in refused(path, text.encode(codec)).reason


def test_binary_content_is_no_western_text() -> None:
    assert refused("x.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").reason.startswith("not utf-8: byte 0x89")
