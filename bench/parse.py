"""Cost of the parser process: CPU time of ordinary HTML pages and PDFs with it and without, chunking as in ingest.

Run from the project's root: ``python -m bench.parse``. Both pass through the same parsers; the difference is the
exchange with the process. Its start, once per ingest, has a column of its own.
"""

import argparse
import io
import resource
from collections.abc import Callable
from random import Random
from typing import Any

from bench.common import table, versions
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import load_settings
from heal_tasks.sources.chunking import chunk_text, token_counter
from heal_tasks.sources.html_text import extract_html
from heal_tasks.sources.parser_process import extract, parser_process
from heal_tasks.sources.pdf_text import extract_pdf

WORDS = """retrieval documents efficient index memory valve pump pressure slowly opened before after where which
reading oil filter service weekly manual section shows how the a of and in to is for with""".split()  # noqa: SIM905
MAX_CHARS = 2_000_000


def paragraph(random: Random, words: int) -> str:
    """A sentence-like text of random words."""
    return " ".join(random.choices(WORDS, k=words)).capitalize() + "."


def page(random: Random) -> bytes:
    """An HTML page of about 600 words with a menu, headings, lists and a table."""
    menu = "".join(f'<li><a href="/{word}">{word}</a>' for word in random.choices(WORDS, k=20))
    parts = [
        f"<h2>{paragraph(random, 4)}</h2><p>{paragraph(random, 60)} <b>{paragraph(random, 5)}</b></p>"
        f"<ul><li>{paragraph(random, 6)}<li>{paragraph(random, 6)}</ul>"
        for _ in range(8)
    ]
    return (
        f"<html><head><title>{paragraph(random, 3)}</title></head><nav><ul>{menu}</ul></nav>{''.join(parts)}".encode()
    )


def pdf(random: Random) -> bytes:
    """A PDF of five pages of text."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with PdfPages(out) as pages:
        for _ in range(5):
            figure = Figure(figsize=(8.3, 11.7))
            for line in range(40):
                figure.text(0.1, 0.92 - line * 0.02, paragraph(random, 12), fontsize=9)
            pages.savefig(figure)
    return out.getvalue()


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def spent(function: Callable[..., Any], *arguments: Any) -> float:
    """CPU seconds of a call."""
    start = cpu_seconds()
    function(*arguments)
    return cpu_seconds() - start


def read_apart(kind: str, contents: list[bytes]) -> None:
    """Read files in a parser process that is started and ended for them."""
    with parser_process():
        for content in contents:
            extract(kind, content, MAX_CHARS)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=300)
    parser.add_argument("--pdfs", type=int, default=100)
    arguments = parser.parse_args()
    random = Random(0)
    settings = load_settings()
    count = token_counter(resolve_model(settings.model))
    files = {
        "HTML": ("html", extract_html, [page(random) for _ in range(arguments.pages)]),
        "PDF": ("pdf", extract_pdf, [pdf(random) for _ in range(arguments.pdfs)]),
    }
    rows = []
    for name, (kind, parse, contents) in files.items():
        started = spent(read_apart, kind, contents[:1])
        apart = spent(read_apart, kind, contents) - started
        found = [parse(content, MAX_CHARS) for content in contents]
        alone = spent(lambda contents, parse: [parse(content, MAX_CHARS) for content in contents], contents, parse)
        start = cpu_seconds()
        for item in found:
            chunk_text(item.title, item.body, count, settings.chunk_tokens)
        whole = alone + cpu_seconds() - start
        rows.append(
            {
                "files": f"{len(contents)} {name}",
                "parsed in this process, CPU s": f"{alone:.2f}",
                "in the parser process, CPU s": f"{apart:.2f}",
                "its start and first file, CPU s": f"{started:.2f}",
                "parsed and chunked, CPU s": f"{whole:.2f}",
                "added": f"{(apart - alone) / whole:.0%}",
            }
        )
    print(f"{versions()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
