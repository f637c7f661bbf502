"""What a run did, for the end of the demo: the summary of ``heal_tasks.report.summary`` as tables and plain text."""

from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

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


def print_report(conn: Connection, run_id: str, console: Console) -> None:
    """Print what came in, which route was taken and why, topics, questions, quality, verdict, generation, steps.

    Args:
        conn: to the vector database.
        run_id: the run.
        console: where to.

    Raises:
        StepError: the run left no row in ``heal.run``.
    """
    summary = summarise(conn, run_id)
    if summary is None:
        raise StepError(f"run {run_id!r} left nothing in heal.run; its tasks' logs in the UI say why")
    run = summary.run
    console.rule(f"Run {escape(run_id)}")
    took = f" in {format_duration((run.finished_at - run.started_at).total_seconds())}" if run.finished_at else ""
    _field(console, "Route", f"{run.route or 'none chosen'}{took}")
    _field(console, "Why", run.route_reason)
    documents = summary.documents
    _field(
        console, "Documents",
        f"{documents['documents']} in {documents['chunks']} chunks, {documents['duplicates']} exact duplicates, "
        f"{len(summary.quarantined)} refused by this run",
    )  # fmt: skip
    _print_topics(summary, console)
    _print_questions(summary, console)
    _print_quality(summary, console)
    _field(console, "Verdict", run.verdict)
    _print_generation(summary, console)
    _print_steps(summary, console)
    _field(console, "Page", run.report_uri)


def _print_topics(summary: Summary, console: Console) -> None:
    rows = sorted((row for row in summary.topics if row.level), key=lambda row: (row.level, row.first_leaf))
    if not rows:
        return
    root = Tree(f"[bold]Topics[/] ({len(rows)} of the active generation; documents in brackets)")
    branches: dict[int | None, Tree] = {}
    for row in rows[:MAX_TOPICS]:
        label = f"{escape(', '.join(row.terms[:TERMS]))} ({row.size})"
        branches[row.topic_id] = branches.get(row.parent_id, root).add(label, highlight=False)
    console.print(root, highlight=False)
    if len(rows) > MAX_TOPICS:
        console.print(f"  and {len(rows) - MAX_TOPICS} smaller ones: SELECT * FROM heal.topics", highlight=False)


def _print_questions(summary: Summary, console: Console) -> None:
    table = _table("Questions", "written by", "kind", "train", "seen held out", "unseen documents")
    counts = sorted(summary.question_counts)
    for (writer, kind), rows in groupby(counts, key=lambda row: row[:2]):
        by_split = {split: number for _, _, split, number in rows}
        held_out = [sum(n for split, n in by_split.items() if split.startswith(part)) for part in ("seen", "unseen")]
        table.add_row(writer, kind, *map(str, [by_split.get("train", 0), *held_out]))
    console.print(table)
    if any(writer == "extractive" for writer, *_ in counts):
        _field(console, "Note", EXTRACTIVE_NOTE)
    for row in summary.ledger:
        _field(
            console, "LLM",
            f"{row.model} for {row.purpose}: {row.calls} calls {row.status}, {row.input_tokens} tokens in, "
            f"{row.output_tokens} out, {row.cost_usd:.2f} USD",
        )  # fmt: skip


def _print_quality(summary: Summary, console: Console) -> None:
    rows = summary.evaluation_table()
    if not rows:
        _field(console, "Quality", "nothing was measured in this run")
        return
    title = "Retrieval quality, nDCG@10 with 95 % intervals"
    table = _table(title, "questions", "system", "nDCG@10", "against", "difference", "n")
    before = None
    for row in rows:
        name = f"{row.system} (generation {row.generation_id})" if row.generation_id else row.system
        paired = f"{row.difference:+.3f} [{row.diff_low:+.3f}, {row.diff_high:+.3f}]" if row.rival else ""
        first = row.question_set if row.question_set != before else ""
        before = row.question_set
        value = f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"
        table.add_row(*map(escape, [first, name, value, row.rival or "", paired, str(row.questions)]))
    console.print(table)


def _print_generation(summary: Summary, console: Console) -> None:
    active = summary.active
    if active is None:
        _field(console, "Active", "no generation is active yet")
        return
    nudged = "not nudged"
    if active.nudge_variant != "none":
        nudged = f"NUDGE-{active.nudge_variant} with theta {active.nudge_theta:.3f}"
    measured = f", recall@10 of its index {active.recall:.3f}" if active.recall is not None else ""
    since = f", since {active.activated_at.astimezone():%Y-%m-%d %H:%M}" if active.activated_at else ""
    kind = f"{active.kind}, {active.dims} dimensions"
    _field(console, "Active", f"generation {active.generation_id} ({kind}, {nudged}{measured}{since})")
    _field(console, "Model", active.model_uri)


def _print_steps(summary: Summary, console: Console) -> None:
    table = _table("Steps", "step", "took", "what came of it")
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


def _field(console: Console, name: str, value: str | None) -> None:
    if value:
        lines = escape(value).split("\n")
        console.print(f"[bold]{name:<10}[/] {lines[0]}", highlight=False)
        for line in lines[1:]:
            console.print(f"{'':<10} {line}", highlight=False)
