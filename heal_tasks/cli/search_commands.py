"""Commands that search: by a text, for documents like a given one, and as a service."""

import functools
import json
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from heal_tasks.cli.base import app, console, print_line, settings_for_command
from heal_tasks.client import Client
from heal_tasks.core.errors import InputError
from heal_tasks.sources.records import is_visible
from heal_tasks.store.db import connect
from heal_tasks.store.generations.search import Hit, HybridHit, TextHit, unknown_words

TEXT_CHARS = 160

K = Annotated[int, typer.Option("-k", min=1, max=1000, help="How many hits.")]
Principal = Annotated[
    list[str] | None,
    typer.Option("--principal", help="Search as somebody with this principal, too; give it once for each."),
]
Topic = Annotated[int | None, typer.Option("--topic", help="Only below this topic; ids: SELECT * FROM heal.topics.")]


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: K = 10,
    topic: Topic = None,
    filter: Annotated[  # noqa: A002 - the name of the option
        str, typer.Option("--filter", help="JSON object that the documents' metadata must contain.")
    ] = "",
    encoder: Annotated[
        bool, typer.Option("--encoder", help="Also with the model, which takes seconds to load.")
    ] = False,
    principal: Principal = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines, with whole texts.")] = False,
) -> None:
    """Print the chunks that answer a text best, by the live generation's lexicon and the words; needs no model."""
    if not is_visible(text):
        raise InputError("the text to look for is empty; give a question or some words")
    settings, wanted, load = settings_for_command(), _metadata(filter), None
    if encoder:
        from heal_tasks.client.encoders import query_encoder  # loads torch

        load = functools.partial(query_encoder, settings=settings)
    hits: Sequence[TextHit | HybridHit]
    with Client(settings.require_database_url(), encoder=load) as client:
        hits = (client.hybrid_search if encoder else client.find)(text, k, topic, wanted, principals=principal or None)
    unknown = []
    if not hits:
        with connect(settings.require_database_url()) as conn:
            unknown = unknown_words(conn, text)
    if as_json:
        for hit in hits:
            typer.echo(_json_line(hit._asdict()))
    elif unknown:
        print_line(f"nothing found: the lexicon has none of the words {', '.join(unknown)}")
    else:
        print_hits(["score", "relevance"], hits)


def _json_line(value: dict[str, Any]) -> str:
    """A value as JSON, with the control characters escaped that JSON allows and a terminal obeys."""
    line = json.dumps(value, ensure_ascii=not (sys.stdout.encoding or "utf-8").startswith("utf"))
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", line)


def _metadata(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text else None
    except ValueError as error:
        raise InputError(f'--filter {text!r} is no JSON ({error}); write for example \'{{"lang": "en"}}\'') from None
    if not isinstance(value, dict | None):
        raise InputError(f'--filter {text!r} is no JSON object; write for example \'{{"lang": "en"}}\'')
    return value


@app.command()
def similar(
    document: Annotated[int, typer.Argument(help="document_id, from heal.document.")],
    k: K = 10,
    topic: Topic = None,
    principal: Principal = None,
) -> None:
    """Print the chunks of other documents nearest to a document; needs no model."""
    with Client(settings_for_command().require_database_url()) as client:
        print_hits(["distance"], client.similar(document, k, topic, principals=principal or None))


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's own need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8090,
) -> None:
    """Answer embeddings in OpenAI's protocol and searches over HTTP, and follow every switch."""
    from heal_tasks.serve.app import serve as run

    run(settings_for_command(), host, port)


def print_hits(measures: Sequence[str], hits: Sequence[Hit | HybridHit | TextHit]) -> None:
    """Print a table of hits, each with its measures, for example score and relevance."""
    if not hits:
        print_line("nothing found; SELECT * FROM heal.explain_find('the text') shows which of its words documents have")
        return
    table = Table(*measures, "document_id", "title", "text")
    for hit in hits:
        text = " ".join(hit.text.split())
        shown = text[:TEXT_CHARS] + "…" * (len(text) > TEXT_CHARS)
        numbers = [getattr(hit, measure) for measure in measures]
        table.add_row(*("" if n is None else f"{n:.3f}" for n in numbers), str(hit.document_id), hit.title, shown)
    console.print(table)
    print_line(f"generation {hits[0].generation_id}")
