"""Print the summary of a run as tables and plain text."""

from itertools import groupby

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from heal_tasks.cli.base import console
from heal_tasks.core.errors import StepError
from heal_tasks.core.log import format_duration
from heal_tasks.report.summary import Summary, summarise
from heal_tasks.store.db import Connection

MAX_TOPICS = 40
TERMS = 6
EXTRACTIVE_NOTE = (
    "extractive questions are cut from the text itself; HEAL_LLM_API_KEY or HEAL_LLM_BASE_URL makes a language model "
    "write them"
)


def print_report(conn: Connection, run_id: str) -> None:
    """Print documents, route with its reason, topics, questions, quality, verdict, live generation and steps."""
    summary = summarise(conn, run_id)
    if summary is None:
        raise StepError(f"run {run_id!r} left nothing in heal.run; its tasks' logs in the UI say why")
    run, documents = summary.run, summary.documents
    console.rule(f"Run {run_id}")
    took = f" in {format_duration((run.finished_at - run.started_at).total_seconds())}" if run.finished_at else ""
    _print_field("Route", f"{run.route or 'none chosen'}{took}")
    _print_field("Why", run.route_reason)
    _print_field(
        "Documents",
        f"{documents['documents']} in {documents['chunks']} chunks, {documents['duplicates']} exact duplicates, "
        f"{summary.total('ingest', 'rejected')} rejected by this run",
    )
    _print_topics(summary)
    _print_questions(summary)
    _print_quality(summary)
    _print_field("Verdict", run.verdict)
    _print_field("Active", summary.active_line)
    _print_field("Model", summary.space.model_uri if summary.space else None)
    _print_steps(summary)
    _print_field("Page", run.report_uri)


def _print_topics(summary: Summary) -> None:
    rows = sorted(summary.tree.rows if summary.tree else [], key=lambda row: (row.level, row.first_leaf))[1:]
    if not rows:
        return
    root = Tree(Text.assemble(("Topics", "bold"), f" ({len(rows)} {summary.tree_origin}; documents in brackets)"))
    branches: dict[int | None, Tree] = {}
    for row in rows[:MAX_TOPICS]:
        label = f"{', '.join(row.terms[:TERMS])} ({row.size})"
        branches[row.topic_id] = branches.get(row.parent_id, root).add(label)
    console.print(root)
    if len(rows) > MAX_TOPICS:
        console.print(f"  and {len(rows) - MAX_TOPICS} smaller ones: `python -m heal_tasks topics`")


def _print_questions(summary: Summary) -> None:
    table = _table("Questions", "written by", "kind", "train", "seen held out", "unseen documents")
    for row in summary.question_table():
        table.add_row(*map(str, row))
    console.print(table)
    if any(writer == "extractive" for writer, *_ in summary.question_counts):
        _print_field("Note", EXTRACTIVE_NOTE)
    for call in summary.ledger:
        _print_field(
            "LLM",
            f"{call.model} for {call.purpose}: {call.calls} calls {call.status}, {call.input_tokens} tokens in, "
            f"{call.output_tokens} out, {call.cost_usd:.2f} USD",
        )


def _print_quality(summary: Summary) -> None:
    if not summary.evaluation_table():
        _print_field("Quality", "nothing was measured in this run")
        return
    title = "Quality: nDCG@10, or topic agreement@10 of documents, with 95 % intervals"
    table = _table(title, "measured on", "system", "quality", "against", "difference", "n")
    for name, rows in groupby(summary.evaluation_table(), key=lambda row: row.question_set):
        for number, row in enumerate(rows):
            system = f"{row.system} (generation {row.generation_id})" if row.generation_id else row.system
            value = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
            paired = f"{row.difference:+.3f} [{row.diff_low:+.3f}, {row.diff_high:+.3f}]" if row.rival else ""
            table.add_row("" if number else name, system, value, row.rival, paired, str(row.questions))
    console.print(table)


def _print_steps(summary: Summary) -> None:
    table = _table("Steps", "step", "took", "result")
    for step, group in groupby(summary.steps, key=lambda row: row.step):
        rows = list(group)
        name = f"{step} ({len(rows)} shards)" if len(rows) > 1 else step
        ended = [row.finished_at for row in rows if row.finished_at is not None]
        took = "unfinished"
        if len(ended) == len(rows):
            took = format_duration((max(ended) - min(row.started_at for row in rows)).total_seconds())
        notes = dict.fromkeys(row.result["note"] if row.result else row.message for row in rows)
        table.add_row(name, took, "; ".join(notes))
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    return table


def _print_field(name: str, value: str | None) -> None:
    if value:
        text = value.replace("\n", f"\n{'':<11}")
        console.print(Text.assemble((f"{name:<10}", "bold"), f" {text}"))
