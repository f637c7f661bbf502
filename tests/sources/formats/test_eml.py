"""E-mails: headers, the form of the text that counts, encodings, and attachments."""

import base64
from email.message import EmailMessage

import pytest

from tests.sources.formats.office import saved, word
from tests.sources.parsing import accepted, refused

TABLE = "<table><tr><th>a<th>b<tr><td>1<td>2</table>"


def message(**headers: str) -> EmailMessage:
    made = EmailMessage()
    for name, text in {"From": "Änn <a@example.org>", "To": "b@example.org", **headers}.items():
        made[name] = text
    return made


def test_eml_headers_text_and_attachments() -> None:
    mail = message(Subject="The pump", Date="Tue, 02 Jan 2024 10:00:00 +0100")
    mail.set_content("See the other form.")
    mail.add_alternative(f"<h1>Order</h1><p>Rich text.{TABLE}", subtype="html")
    mail.add_attachment(saved(word()), maintype="application", subtype="octet-stream", filename="guide.docx")
    mail.add_attachment(b"junk", maintype="application", subtype="octet-stream", filename="broken.docx")
    mail.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="photo.png")
    mail.add_attachment("the log", filename="run.txt")
    inner = message(Subject="Inner")
    inner.set_content("inner text")
    mail.add_attachment(inner)
    record = accepted("x.eml", mail.as_bytes())
    assert record.title == "The pump"
    assert record.metadata == {
        "from": "Änn <a@example.org>",
        "to": "b@example.org",
        "date": "2024-01-02T10:00:00+01:00",
        "attachments_unread": ["broken.docx: the file is no complete archive (File is not a zip file); save it again"],
    }
    blocks = record.body.split("\n\n")
    assert blocks[0] == "From: Änn <a@example.org>\nTo: b@example.org\nDate: Tue, 02 Jan 2024 10:00:00 +0100"
    assert blocks[1:6] == [
        "# Order",
        "Rich text.",
        "| a | b |\n| --- | --- |\n| 1 | 2 |",
        "## Attachment: guide.docx",
        "### Pump guide",
    ]
    assert "#### Change" in blocks
    assert blocks[-5:] == [
        "## Attachment: run.txt", "the log",
        "## Attachment: Inner", "From: Änn <a@example.org>\nTo: b@example.org", "inner text",
    ]  # fmt: skip


def test_eml_in_other_encodings_and_without_html() -> None:
    mail = message(Subject="=?iso-8859-1?q?caf=E9?=")
    mail.set_content("Le café est prêt.", charset="iso-8859-1")
    record = accepted("x.eml", mail.as_bytes())
    assert (record.title, record.body.rpartition("\n\n")[2]) == ("café", "Le café est prêt.")
    plain = message(Subject="S")
    plain.set_content("The text.")
    plain.add_alternative("<script>x</script>", subtype="html")
    assert accepted("x.eml", plain.as_bytes()).body.endswith("The text.")
    broken = b"From: a@x\nSubject: S\nContent-Type: text/plain; charset=klingon\nDate: yesterday\n\ntext \x81"
    record = accepted("x.eml", broken)
    assert record.body.endswith("text �")
    assert record.metadata["date"] == "yesterday"
    assert refused("x.eml", b"no header\n\ntext").reason.startswith("the file is no e-mail")


def test_mails_in_mails_end_at_the_fifth() -> None:
    mail = message(Subject="0")
    mail.set_content("text 0")
    for number in range(1, 9):
        outer = message(Subject=str(number))
        outer.set_content(f"text {number}")
        outer.add_attachment(mail)
        mail = outer
    body = accepted("x.eml", mail.as_bytes()).body
    assert [f"text {number}" in body for number in range(9)] == [False] * 3 + [True] * 6


def test_of_a_mail_with_pictures_the_html_counts_too() -> None:
    mail = message(Subject="S")
    mail.set_content("Plain words.")
    mail.add_alternative("<p>Amp words.</p>", subtype="x-amp-html")
    mail.add_alternative('<p>Rich words.<img src="cid:1"></p>', subtype="html")
    mail.get_payload()[2].add_related(b"\x89PNG", "image", "png", cid="<1>")
    assert accepted("x.eml", mail.as_bytes()).body.split("\n\n")[1:] == ["Rich words."]
    empty = message(Subject="S")
    empty.set_content("Plain words.")
    empty.add_alternative('<img src="cid:1">', subtype="html")
    empty.get_payload()[1].add_related(b"\x89PNG", "image", "png", cid="<1>")
    assert accepted("x.eml", empty.as_bytes()).body.split("\n\n")[1:] == ["Plain words."]


def test_a_mail_that_is_attached_as_base64() -> None:
    inner = message(Subject="Inner")
    inner.set_content("inner text")
    outer = message(Subject="S")
    outer.set_content("outer text")
    outer.add_attachment(base64.encodebytes(inner.as_bytes()).decode(), filename="x")
    data = outer.as_bytes().replace(b'text/plain; charset="utf-8"\nContent-Transfer-Encoding: 7bit\nContent-Disp', (
        b"message/rfc822\nContent-Transfer-Encoding: base64\nContent-Disp"))  # fmt: skip
    assert data.count(b"message/rfc822") == 1
    assert accepted("x.eml", data).body.split("\n\n")[-3:] == [
        "## Attachment: Inner", "From: Änn <a@example.org>\nTo: b@example.org", "inner text",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text", "codec", "guessed"),
    [
        ("text/plain", "Grüße aus Köln, viel Spaß", "cp1252", "windows-1252"),  # no charset: programs of before MIME
        ("text/plain; charset=us-ascii", "Grüße aus Köln, viel Spaß", "cp1252", "windows-1252"),
        ("text/plain; charset=utf-8", "Grüße aus Köln, viel Spaß", "cp1252", "windows-1252"),
        ("text/plain; charset=iso-8859-1", "“Fine”, she said: 5 €", "cp1252", None),
        ("text/plain; charset=gb2312", "朱镕基说过", "gb18030", None),
        ("text/plain; charset=ks_c_5601-1987", "똠방각하", "cp949", None),
        ("text/plain; charset=ibm850", "Grüße aus Köln", "cp850", None),
        ("text/plain; charset=iso-2022-jp", "ポンプの油", "iso2022_jp", None),
        ("text/plain; charset=utf-7", "Grüße aus Köln", "utf-7", None),
        ("text/html", "<meta charset=windows-1251><p>Привет, мир", "cp1251", None),
    ],
)
def test_eml_in_encodings_as_programs_name_them(kind: str, text: str, codec: str, guessed: str | None) -> None:
    data = f"From: a@x\nContent-Type: {kind}\nContent-Transfer-Encoding: 8bit\n\n".encode() + text.encode(codec)
    for start in (b"", b"\xef\xbb\xbf", b"\r\n"):
        record = accepted("x.eml", start + data)
        assert record.body.split("\n\n")[1] == text.rpartition(">")[2]
        assert record.metadata.get("encoding_guessed") == guessed
