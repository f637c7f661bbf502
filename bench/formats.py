"""What readers of office files keep: planted sentences in every place of a file, found again or not.

Run from the project's root: ``python -m bench.formats``. Ours beside markitdown, docling and the plain use of
python-docx, python-pptx and openpyxl, as far as they are installed. The files are those of
``tests/field/mixed_folder.py``. CPU seconds are those of the second reading of a file: the first loads libraries.
"""

import argparse
import io
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import process_time
from typing import Any

from bench.common import parent_parser, show, versions
from heal_tasks.sources.formats.readers import reader
from tests.field import mixed_folder as made

KINDS = {"docx": made.word_file, "pptx": made.slides_file, "xlsx": made.workbook_file, "pdf": made.pdf_file,
         "epub": made.book_file, "eml": made.mail_file}  # fmt: skip
Reader = Callable[[str, bytes], str]


def ours(kind: str, data: bytes) -> str:
    """Our readers, in this process."""
    found = reader(kind)(data, 2_000_000)
    return f"{found.title}\n{found.body}"


def by_libraries(kind: str, data: bytes) -> str:
    """The loops of these libraries' tutorials."""
    if kind == "docx":
        import docx

        document = docx.Document(io.BytesIO(data))
        cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
        return "\n".join([paragraph.text for paragraph in document.paragraphs] + cells)
    if kind == "pptx":
        import pptx

        slides = pptx.Presentation(io.BytesIO(data)).slides
        return "\n".join(shape.text_frame.text for slide in slides for shape in slide.shapes if shape.has_text_frame)
    if kind == "xlsx":
        import openpyxl

        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        return "\n".join(str(value) for sheet in book for row in sheet.iter_rows(values_only=True) for value in row)
    raise ValueError(f"no tutorial reads {kind}")


def by_markitdown(kind: str, data: bytes) -> str:
    """The converter markitdown."""
    from markitdown import MarkItDown

    return str(MarkItDown(enable_plugins=False).convert_stream(io.BytesIO(data), file_extension=f".{kind}").markdown)


def by_docling(kind: str, data: bytes) -> str:
    """The converter docling, without the models that it would download for PDF."""
    from docling.document_converter import DocumentConverter

    if kind == "pdf":
        raise ValueError("its models for PDF are downloaded")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{kind}"
        path.write_bytes(data)
        return str(DocumentConverter().convert(path).document.export_to_markdown())


READERS: dict[str, tuple[str, Reader]] = {
    "ours": ("", ours),
    "tutorials": ("python-docx", by_libraries),
    "markitdown": ("markitdown", by_markitdown),
    "docling": ("docling", by_docling),
}


def rows() -> Iterator[dict[str, Any]]:
    """A row per reader and kind."""
    for kind, make in KINDS.items():
        garden = made.Garden()
        garden.add("x", make)
        for name, (package, read) in READERS.items():
            try:
                label = f"{name} {version(package)}" if package else name
                read(kind, garden.files["x"])
                start = process_time()
                text = " ".join(read(kind, garden.files["x"]).split())
            except PackageNotFoundError:
                continue
            except Exception as error:  # a reader without this kind says so in its own way
                yield {"kind": kind, "reader": name, "kept": f"- ({type(error).__name__})", "lost": "", "CPU s": ""}
                continue
            spent = process_time() - start
            lost = sorted({place.removeprefix("x: ").rstrip("0123456789 ") for word, place in garden.planted.items()
                           if f"{word} grows here." not in text})  # fmt: skip
            kept = sum(f"{word} grows here." in text for word in garden.planted)
            yield {"kind": kind, "reader": label, "kept": f"{kept} of {len(garden.planted)}", "lost": ", ".join(lost),
                   "CPU s": f"{spent:.3f}"}  # fmt: skip


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    arguments = parser.parse_args()
    show("formats", rows(), arguments.json)
    print(versions())


if __name__ == "__main__":
    main()
