"""E-books, notebooks, reStructuredText and Parquet tables."""

import datetime
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.types import Record
from tests.sources.parsing import accepted, parse, refused

TABLE = "<table><tr><th>a<th>b<tr><td>1<td>2</table>"
PACKAGE = """<!DOCTYPE package><package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><dc:title>Pumps for all</dc:title><dc:creator>Ann Writer</dc:creator><dc:language>de</dc:language></metadata>
<manifest><item id="a" href="a%20b.xhtml" media-type="application/xhtml+xml"/>
<item id="b" href="text/b.xhtml" media-type="application/xhtml+xml"/>
<item id="p" href="p.png" media-type="image/png"/>
<item id="n" properties="nav" href="n.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="n"/><itemref idref="b"/><itemref idref="a"/></spine></package>"""


def epub(**parts: str) -> bytes:
    """An e-book of two chapters; ``parts`` replaces or adds files, ``__`` in a name is a slash, ``_`` a dot."""
    files = {
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OEBPS/c.opf"/></rootfiles></container>',
        "OEBPS/c.opf": PACKAGE,
        "OEBPS/a b.xhtml": "<html><body><h1>End</h1><p>The last words.</p></body></html>",
        "OEBPS/text/b.xhtml": "<html><head><title>x</title></head><body><h1>Start</h1>The first words.</body></html>",
        "OEBPS/n.xhtml": "<html><body><h1>Contents</h1></body></html>",
    }
    files |= {name.replace("__", "/").replace("_", "."): text for name, text in parts.items()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def test_epub_chapters_in_reading_order() -> None:
    record = accepted("x.epub", epub())
    assert record.title == "Pumps for all"
    assert record.metadata == {"author": "Ann Writer", "language": "de", "chapters": 2}
    assert record.body == "# Start\n\nThe first words.\n\n# End\n\nThe last words."


def test_epubs_that_are_refused() -> None:
    lock = '<encryption><CipherReference URI="OEBPS/text/b.xhtml"/></encryption>'
    font = '<encryption><CipherReference URI="OEBPS/font.otf"/></encryption>'
    assert refused("x.epub", epub(**{"META-INF__encryption_xml": lock})).reason.startswith("the e-book is protected")
    assert accepted("x.epub", epub(**{"META-INF__encryption_xml": font})).body
    assert refused("x.epub", epub(**{"META-INF__container_xml": "<a/>"})).reason.startswith("the file is no e-book")
    assert refused("x.epub", epub(OEBPS__c_opf="<package/>")).reason.startswith(
        "the e-book has no text in its 0 chapters"
    )
    entity = '<!DOCTYPE p [<!ENTITY x SYSTEM "file:///etc/passwd">]><package>&x;</package>'
    assert refused("x.epub", epub(OEBPS__c_opf=entity)).reason.startswith("OEBPS/c.opf in the file declares entities")


def notebook(*cells: dict[str, Any], **more: object) -> str:
    return json.dumps({"nbformat": 4, "metadata": {"language_info": {"name": "python"}}, "cells": list(cells)} | more)


def test_ipynb_text_code_and_output() -> None:
    outputs = [
        {"output_type": "stream", "text": ["1\n", "2\n"]},
        {
            "output_type": "execute_result",
            "data": {"text/plain": "x", "text/html": TABLE},
        },
        {"output_type": "display_data", "data": {"image/png": "aGk="}},
        {"output_type": "error", "ename": "KeyError", "evalue": "'k'", "traceback": ["long"]},
    ]
    record = accepted(
        "x.ipynb",
        notebook(
            {"cell_type": "markdown", "source": ["# The study\n", "Its text."]},
            {"cell_type": "code", "source": "# comment\nrun()", "outputs": outputs},
            {"cell_type": "code", "source": "", "outputs": []},
        ),
    )
    assert record.title == "The study"
    assert record.metadata == {"cells": 3, "programming_language": "python"}
    assert record.body.split("\n\n") == [
        "# The study\nIts text.", "```python\n# comment\nrun()\n```", "```\n1\n2\n```",
        "| a | b |\n| --- | --- |\n| 1 | 2 |",
        "```\nKeyError: 'k'\n```",
    ]  # fmt: skip
    old = {
        "worksheets": [
            {"cells": [{"cell_type": "heading", "level": 2, "source": "Old"}, {"cell_type": "code", "input": "x"}]}
        ]
    }
    assert accepted("x.ipynb", json.dumps(old)).body == "## Old\n\n```\nx\n```"


def test_ipynb_output_as_a_terminal_shows_it() -> None:
    outputs = [
        {"output_type": "stream", "text": "\x1b[32mINFO\x1b[0m start\r\n 10%|#  |\r 50%|## |\r100%|###|\nend\r"},
        {"output_type": "error", "ename": "E", "evalue": "\x1b[1;31mbad\x1b[0m"},
    ]
    body = accepted("x.ipynb", notebook({"cell_type": "code", "source": "x", "outputs": outputs})).body
    assert body.split("\n\n")[1:] == ["```\nINFO start\n100%|###|\nend\n```", "```\nE: bad\n```"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "the notebook is no JSON"),
        ("[1]", "the file is no notebook"),
        (notebook(), "the notebook has no text in its 0 cells"),
        ("[" * 100_000, "the notebook is no JSON"),
    ],
)
def test_notebooks_that_are_refused(text: str, reason: str) -> None:
    assert refused("x.ipynb", text).reason.startswith(reason)


def test_rst_structure(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden secret")
    text = f"""
Title
=====

See :func:`~foo.bar <x>` and *this* |sub| [1]_.

.. |sub| replace:: word
.. a comment
.. include:: {secret}
.. raw:: html

   <b>raw</b>

Section
-------

* a
* b

  1. one

.. toctree::
   :maxdepth: 2

   other

.. versionadded:: 1.2
   New words.

.. code-block:: python
   :linenos:

   x = 1  # code

+-----+-----+
| A   | B   |
+=====+=====+
| 1   | 2   |
|     +-----+
|     | 3   |
+-----+-----+

term
  definition

:field: value

.. [1] The footnote.
"""
    record = accepted("x.rst", text)
    assert record.title == "Title"
    assert "secret" not in record.body.replace(str(secret), "")
    assert [block for block in record.body.split("\n\n") if "include::" not in block and "raw" not in block] == [
        "# Title", "See foo.bar and this word [^1].", "## Section", "- a\n- b\n  1. one", "1.2 New words.",
        "```\nx = 1  # code\n```", "| A | B |\n| --- | --- |\n| 1 | 2 |\n| 1 | 3 |", "term: definition", "field: value",
        "[^1]: The footnote.",
    ]  # fmt: skip
    assert accepted("y.rst", "A\n=\n\ntext\n\nB\n=\n\nmore").body == "# A\n\ntext\n\n# B\n\nmore"


def test_rst_lists_with_code_comments_and_numbers() -> None:
    text = "* Run::\n\n    make a\n    make b\n\n  .. a comment\n\n  and rest.\n\n5. five\n6. six\n\n"
    text += "::\n\n  ```\n  # x\n  ```\n"
    assert accepted("x.rst", text).body.split("\n\n") == [
        "- Run: and rest.", "```\nmake a\nmake b\n```", "5. five\n6. six", "````\n```\n# x\n```\n````",
    ]  # fmt: skip


def table(**columns: list[Any]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


def test_parquet_rows() -> None:
    day = datetime.date(2024, 1, 1)
    data = table(
        ID=[1, 2], text=["a", None], day=[day, day], vector=[[1.0], [2.0]], image=[b"x", b"y"], x=[float("nan"), 2.0]
    )
    first, second = parse("x.parquet", data)
    assert first == Record("1", "", "a", {"day": "2024-01-01", "x": None}, "x.parquet", 1)
    assert second.line == 2 and "text is missing" in getattr(second, "reason", "")
    assert refused("x.parquet", table(key=["a"], text=["b"])).reason.startswith("id is missing")
    assert refused("x.parquet", b"PAR1junkPAR1").reason.startswith("the file is no Parquet table that can be read")


def test_a_parquet_table_that_unpacks_to_too_much() -> None:
    data = table(id=[str(n) for n in range(70)], text=["a" * 2**20] * 70)
    assert len(data) < 1_000_000
    assert refused("x.parquet", data).reason == "the table has more than 67108864 characters as JSON Lines; split it"
