"""Commands that show or bring in what the pipeline works with: topics, questions, judgments, batches."""

from pathlib import Path
from typing import Annotated

import typer

from heal_tasks.cli.base import app, console, settings_for_command


@app.command()
def topics(
    run: Annotated[int | None, typer.Option(help="Topic run; the active generation's, or else the latest.")] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Deepest level to print.")] = None,
    selection: Annotated[bool, typer.Option("--selection", help="Also how the root's k was chosen.")] = False,
) -> None:
    """Print the topic tree: documents, words, stability of each split, and why a leaf was not split."""
    from heal_tasks.cli.topics import print_topics

    print_topics(settings_for_command(), console, topic_run_id=run, depth=depth, selection=selection)


@app.command()
def questions(
    document: Annotated[int | None, typer.Option(help="document_id, from heal.document; all if left out.")] = None,
    chunk: Annotated[int | None, typer.Option(help="Only this chunk; its document need not be named.")] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="Also the questions that the filters dropped.")] = False,
) -> None:
    """Print a document's questions with answer and evidence, chunk by chunk; or counts by writer, kind and split."""
    from heal_tasks.cli.questions import print_questions

    print_questions(settings_for_command(), console, document_id=document, chunk_id=chunk, dropped=dropped)


@app.command()
def judgments(
    file: Annotated[
        Path, typer.Argument(help='JSON Lines: {"query": ..., "document": id in its source, "split": train|test}.')
    ],
    source: Annotated[str | None, typer.Option(help="The documents' source; needed where there are several.")] = None,
) -> None:
    """Import people's questions with the documents that answer them."""
    from heal_tasks.cli.judgments import import_judgments

    import_judgments(settings_for_command(), console, file, source)


@app.command()
def batches(cancel: Annotated[str, typer.Option("--cancel", help="Id of a batch to cancel.")] = "") -> None:
    """Print the batches of language-model calls that are under way, or cancel one."""
    from heal_tasks.cli.batches import cancel_batch, print_batches

    settings = settings_for_command()
    if cancel:
        cancel_batch(settings, console, cancel)
    print_batches(settings, console)
