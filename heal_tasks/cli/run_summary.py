"""Print the summary of a run as tables and plain text, and write its page to a file."""

from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import StepError
from heal_tasks.core.log import format_duration
from heal_tasks.core.settings import Settings
from heal_tasks.report.page import read_page
from heal_tasks.report.summary import Summary, summarise
from heal_tasks.store.db import Connection, connect

MAX_TOPICS = 40
TERMS = 6
EXTRACTIVE_NOTE = (
    "extractive questions are cut from the text itself; HEAL_LLM_API_KEY or HEAL_LLM_BASE_URL makes a language model "
    "write them"
)


def print_report(conn: Connection, run_id: str, console: Console) -> None:
    """Print documents, route with its reason, topics, questions, quality, verdict, live generation and steps.

    Raises:
        StepError: the run left no row in ``heal.run``.
    """
    summary = summarise(conn, run_id)
    if summary is None:
        raise StepError(f"run {run_id!r} left nothing in heal.run; its tasks' logs in the UI say why")
    run, documents = summary.run, summary.documents
    console.rule(f"Run {escape(run_id)}")
    took = f" in {format_duration((run.finished_at - run.started_at).total_seconds())}" if run.finished_at else ""
    _print_field(console, "Route", f"{run.route or 'none chosen'}{took}")
    _print_field(console, "Why", run.route_reason)
    _print_field(
        console, "Documents",
        f"{documents['documents']} in {documents['chunks']} chunks, {documents['duplicates']} exact duplicates, "
        f"{len(summary.quarantined)} rejected by this run",
    )  # fmt: skip
    _print_topics(summary, console)
    _print_questions(summary, console)
    _print_quality(summary, console)
    _print_field(console, "Verdict", run.verdict)
    _print_field(console, "Active", summary.active_line)
    _print_field(console, "Model", summary.space.model_uri if summary.space else None)
    _print_steps(summary, console)
    _print_field(console, "Page", run.report_uri)


def write_page(settings: Settings, run_id: str, file: Path) -> None:
    """Write the page of a run to a file, with the sample questions that the database still has.

    Raises:
        StepError: there is no such run, or it has no page.
    """
    with connect(settings.require_database_url(), autocommit=True) as conn:
        page = read_page(conn, artifact_store(settings), run_id)
    if page is None:
        raise StepError(
            f"run {run_id!r} has no page; SELECT run_id FROM heal.run WHERE report_uri IS NOT NULL lists runs with one"
        )
    file.write_text(page, encoding="utf-8")


def _print_topics(summary: Summary, console: Console) -> None:
    rows = sorted(summary.tree.rows if summary.tree else [], key=lambda row: (row.level, row.first_leaf))[1:]
    if not rows:
        return
    origin = "built by this run" if summary.built_topics else "of the live generation"
    root = Tree(f"[bold]Topics[/] ({len(rows)} {origin}; documents in brackets)")
    branches: dict[int | None, Tree] = {}
    for row in rows[:MAX_TOPICS]:
        label = f"{escape(', '.join(row.terms[:TERMS]))} ({row.size})"
        branches[row.topic_id] = branches.get(row.parent_id, root).add(label, highlight=False)
    console.print(root, highlight=False)
    if len(rows) > MAX_TOPICS:
        console.print(f"  and {len(rows) - MAX_TOPICS} smaller ones: `python -m heal_tasks topics`", highlight=False)


def _print_questions(summary: Summary, console: Console) -> None:
    table = _table("Questions", "written by", "kind", "train", "seen held out", "unseen documents")
    for row in summary.question_table():
        table.add_row(*map(str, row))
    console.print(table)
    if "extractive" in summary.questions_by_writer():
        _print_field(console, "Note", EXTRACTIVE_NOTE)
    for call in summary.ledger:
        _print_field(
            console, "LLM",
            f"{call.model} for {call.purpose}: {call.calls} calls {call.status}, {call.input_tokens} tokens in, "
            f"{call.output_tokens} out, {call.cost_usd:.2f} USD",
        )  # fmt: skip


def _print_quality(summary: Summary, console: Console) -> None:
    if not summary.evaluation_table():
        _print_field(console, "Quality", "nothing was measured in this run")
        return
    title = "Retrieval quality, nDCG@10 with 95 % intervals"
    table = _table(title, "questions", "system", "nDCG@10", "against", "difference", "n")
    for name, rows in groupby(summary.evaluation_table(), key=lambda row: row.question_set):
        for number, row in enumerate(rows):
            system = f"{row.system} (generation {row.generation_id})" if row.generation_id else row.system
            value = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
            paired = f"{row.difference:+.3f} [{row.diff_low:+.3f}, {row.diff_high:+.3f}]" if row.rival else ""
            cells = ["" if number else name, system, value, row.rival or "", paired, str(row.questions)]
            table.add_row(*map(escape, cells))
    console.print(table)


def _print_steps(summary: Summary, console: Console) -> None:
    table = _table("Steps", "step", "took", "result")
    for step, group in groupby(summary.steps, key=lambda row: row.step):
        rows = list(group)
        name = f"{step} ({len(rows)} shards)" if len(rows) > 1 else step
        ended = [row.finished_at for row in rows if row.finished_at is not None]
        took = "unfinished"
        if len(ended) == len(rows):
            took = format_duration((max(ended) - min(row.started_at for row in rows)).total_seconds())
        notes = dict.fromkeys(row.result["note"] if row.result else row.message for row in rows)
        table.add_row(name, took, escape("; ".join(notes)))
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    return table


def _print_field(console: Console, name: str, value: str | None) -> None:
    if value:
        text = escape(value).replace("\n", f"\n{'':<11}")
        console.print(f"[bold]{name:<10}[/] {text}", highlight=False)
