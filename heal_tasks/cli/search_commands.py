"""Commands that search: by a text, and for documents like a given one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from heal_tasks.cli.base import app, console, settings_for_command

if TYPE_CHECKING:
    from heal_tasks.store.generations.search import Hit, HybridHit

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
        _print_hits("score", [(hit.score, hit) for hit in searcher.hybrid(text, k=k, topic=topic)])
    else:
        _print_hits("distance", [(hit.distance, hit) for hit in searcher.search(text, k=k, topic=topic)])


@app.command()
def similar(
    document: Annotated[int, typer.Argument(help="document_id, from heal.document.")], k: K = 10, topic: Topic = None
) -> None:
    """Print the chunks of other documents nearest to a document; needs no model."""
    from heal_tasks.store.db import connect
    from heal_tasks.store.generations.search import similar as find_similar

    with connect(settings_for_command().require_database_url()) as conn:
        _print_hits("distance", [(hit.distance, hit) for hit in find_similar(conn, document, k=k, topic=topic)])


def _print_hits(measure: str, hits: Sequence[tuple[float, "Hit | HybridHit"]]) -> None:
    table = Table(measure, "document_id", "title", "text")
    for value, hit in hits:
        text = " ".join(hit.text.split())
        shown = text[:TEXT_CHARS] + ("…" if len(text) > TEXT_CHARS else "")
        table.add_row(f"{value:.3f}", str(hit.document_id), hit.title, shown)
    console.print(table)
