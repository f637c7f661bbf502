"""Command that prints a topic tree, and how the number of topics at its root was chosen."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from heal_tasks.cli.base import app, console, print_line, settings_for_command
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import HealError, StoreError
from heal_tasks.core.settings import Settings
from heal_tasks.report.stored_tree import COLUMNS, StoredTree, read_root_records, read_tree, selection_rows
from heal_tasks.store.db import connect
from heal_tasks.store.documents.topics import TopicRepository, TopicRow
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.topics.config import HNMFkConfig

TERMS = 6


@app.command()
def topics(
    run: Annotated[int | None, typer.Option(help="Topic run; the live generation's, or else the latest.")] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Deepest level to print.")] = None,
    selection: Annotated[bool, typer.Option("--selection", help="Also how the root's k was chosen.")] = False,
) -> None:
    """Print the topic tree: documents, words, stability of each split, and why a leaf was not split."""
    settings = settings_for_command()
    with connect(settings.require_database_url(), autocommit=True) as conn:
        active, latest = GenerationRepository(conn).active(), TopicRepository(conn).latest()
        if latest is None:
            raise StoreError("there is no topic run yet; run the heal_realign DAG, or `python -m heal_tasks run`")
        served_id = active.topic_run_id if active else None
        tree = read_tree(conn, (served_id or latest.topic_run_id) if run is None else run)
    print_line(_head(tree, active))
    _print_tree(tree, tree.run.depth if depth is None else depth)
    if selection:
        _print_selection(settings, tree)


def _head(tree: StoredTree, active: Generation | None) -> str:
    run, whose = tree.run, "not of a live generation"
    if active and active.topic_run_id == run.topic_run_id:
        whose = f"of the live generation {active.generation_id}"
    churn = "" if run.churn is None else f", churn {run.churn:.0%} to the tree before"
    return (
        f"topic run {run.topic_run_id}, {whose}, made {run.created_at.astimezone():%Y-%m-%d %H:%M} "
        f"from {run.documents} documents: {run.leaves} leaves, depth {run.depth}{churn}"
    )


def _print_tree(tree: StoredTree, depth: int) -> None:
    """Print the topics down to a depth, with lines between them in a terminal."""
    branches: dict[int | None, Tree] = {None: Tree("", hide_root=True)}
    for row in tree.rows:
        if row.level <= depth:
            line = _line(tree, row, depth)
            branches[row.topic_id] = branches[row.parent_id].add(line)
            if not console.is_terminal:
                print_line("  " * row.level + line.plain)
    if console.is_terminal:
        console.print(branches[None])


def _line(tree: StoredTree, row: TopicRow, depth: int) -> Text:
    split = bool(tree.children[row.topic_id])
    line = Text.assemble((str(row.topic_id), "cyan"), f": {row.size} documents ({tree.share(row):.0%})")
    if split:
        line.append(f", k={row.k}" + (f", silhouette {row.silhouette:.2f}" if row.silhouette is not None else ""))
    line.append(": ").append(", ".join(row.terms[:TERMS]), "bold")
    if split and row.level >= depth:
        line.append(f" ({tree.below(row)} topics below)", "dim")
    if not split and row.stop_reason:
        line.append(f" (leaf: {row.stop_reason})", "dim")
    return line


def _print_selection(settings: Settings, tree: StoredTree) -> None:
    try:
        records = read_root_records(artifact_store(settings), tree)
    except HealError as error:
        raise StoreError(f"how the root's k was chosen cannot be shown: {error}") from error
    if not records:
        print_line(f"no number of topics was tried at the root: {tree.root.stop_reason}")
        return
    headings = (name.replace(" ", "\n", 1) for name in COLUMNS)
    table = Table(*headings, title="How the root's k was chosen", title_justify="left")
    for column in table.columns[:-1]:
        column.justify = "right"
    for row in selection_rows(records, tree.root.k, HNMFkConfig.silhouette):
        table.add_row(*row)
    console.print(table)
