"""Commands that search: by a text, and for documents like a given one."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from heal_tasks.cli.base import app, console, settings_for_command
from heal_tasks.store.db import connect
from heal_tasks.store.generations.search import Hit, HybridHit
from heal_tasks.store.generations.search import similar as find_similar

TEXT_CHARS = 160

K = Annotated[int, typer.Option("-k", min=1, max=1000, help="How many hits.")]
Topic = Annotated[int | None, typer.Option("--topic", help="Only below this topic; ids: SELECT * FROM heal.topics.")]


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: K = 10,
    topic: Topic = None,
    words: Annotated[bool, typer.Option("--words", help="Also by its words, both scores added.")] = False,
) -> None:
    """Encode a text with the live generation's model and print the nearest chunks."""
    from heal_tasks.serve.search import Searcher

    searcher = Searcher(settings_for_command())
    if words:
        print_hits("score", searcher.hybrid(text, k=k, topic=topic))
    else:
        print_hits("distance", searcher.search(text, k=k, topic=topic))


@app.command()
def similar(
    document: Annotated[int, typer.Argument(help="document_id, from heal.document.")], k: K = 10, topic: Topic = None
) -> None:
    """Print the chunks of other documents nearest to a document; needs no model."""
    with connect(settings_for_command().require_database_url()) as conn:
        print_hits("distance", find_similar(conn, document, k=k, topic=topic))


def print_hits(measure: str, hits: Sequence[Hit | HybridHit]) -> None:
    """Print a table of hits, each with its measure: distance or score."""
    table = Table(measure, "document_id", "title", "text")
    for hit in hits:
        text = " ".join(hit.text.split())
        shown = text[:TEXT_CHARS] + "…" * (len(text) > TEXT_CHARS)
        table.add_row(f"{getattr(hit, measure):.3f}", str(hit.document_id), hit.title, shown)
    console.print(table)
