"""The readers of kinds of file that run in the parser process: by suffix a kind, by kind a function."""

from collections.abc import Callable
from importlib import import_module

from heal_tasks.sources.extract import Extract

READERS = {
    "html": ("html_text", "selectolax.lexbor", "extract_html"),
    "pdf": ("pdf_text", "pypdfium2", "extract_pdf"),
    "docx": ("formats.docx", "", "extract_docx"),
    "pptx": ("formats.pptx", "", "extract_pptx"),
    "xlsx": ("formats.xlsx", "", "extract_xlsx"),
    "epub": ("formats.epub", "selectolax.lexbor", "extract_epub"),
    "eml": ("formats.eml", "selectolax.lexbor", "extract_eml"),
    "ipynb": ("formats.ipynb", "", "extract_ipynb"),
    "rst": ("formats.rst", "docutils", "extract_rst"),
    "parquet": ("formats.parquet", "pyarrow", "extract_parquet"),
}
"""By kind: module, the library that it needs, and function."""

KIND_OF: dict[str, str] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    **dict.fromkeys((".docx", ".docm"), "docx"),
    **dict.fromkeys((".pptx", ".pptm", ".ppsx"), "pptx"),
    **dict.fromkeys((".xlsx", ".xlsm"), "xlsx"),
    ".epub": "epub",
    ".eml": "eml",
    ".ipynb": "ipynb",
    ".rst": "rst",
    ".parquet": "parquet",
}
"""Kind of each suffix."""

TEXT_SUFFIXES = frozenset({".txt", ".text", ".md", ".markdown", ".csv", ".tsv", ".json", ".jsonl", ".log", ".ics"})
"""Attachments that are read as they are."""


def reader(kind: str) -> Callable[[bytes, int], Extract]:
    """The reader of a kind; its library is loaded with the first file of the kind.

    Raises:
        ImportError: the library is not installed.
    """
    module, library, name = READERS[kind]
    if library:
        import_module(library)
    found: Callable[[bytes, int], Extract] = getattr(import_module(f"heal_tasks.sources.{module}"), name)
    return found
