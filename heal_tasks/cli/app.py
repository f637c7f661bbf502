"""``python -m heal_tasks``: every step by hand, search, status, doctor, and the one-machine deployment."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from heal_tasks.cli.console import plain_or_live_console, print_line
from heal_tasks.core.errors import HealError
from heal_tasks.core.log import configure_logging, format_duration
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.steps.engine import road

if TYPE_CHECKING:
    from heal_tasks.store.generations.search import Hit, HybridHit

app = typer.Typer(
    name="heal_tasks",
    help="Keeps a pgvector store aligned with its owner's documents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = plain_or_live_console()


def main() -> None:
    """Run the command line; a HealError becomes one line and exit code 1."""
    try:
        app()
    except HealError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise SystemExit(1) from None


def _settings() -> Settings:
    settings = load_settings()
    configure_logging(settings.log_level)
    return settings


RunId = Annotated[str, typer.Option("--run-id", help="Run to work in; the latest one if left out.")]
K = Annotated[int, typer.Option("-k", min=1, max=1000, help="How many hits.")]
Topic = Annotated[
    int | None, typer.Option("--topic", help="Only this topic's subtree; ids: SELECT * FROM heal.topics.")
]


def _step_command(name: str, entry: road.Entry) -> None:
    @app.command(name.replace("_", "-"), help=entry.about, rich_help_panel="Steps, in the order of the road")
    def command(
        run_id: RunId = "",
        shard: Annotated[int, typer.Option(min=0, help="Number of this shard.", hidden=not entry.sharded)] = 0,
        shards: Annotated[int, typer.Option(min=1, help="How many shards there are.", hidden=not entry.sharded)] = 1,
    ) -> None:
        settings = _settings()
        manifest = _manifest(settings, run_id, new=name == "ingest")
        result = road.load_step(name).run_to_end(settings, manifest, shard, shards)
        console.print_json(json.dumps(result.to_json()))


def _manifest(settings: Settings, run_id: str, *, new: bool) -> Manifest:
    """The refs that a run's finished steps have left, so that any step can be run next."""
    from heal_tasks.store.db import connect
    from heal_tasks.store.runs.runs import RunRepository

    if new and not run_id:
        return Manifest(run_id=f"manual__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}")
    with connect(settings.require_database_url(), autocommit=True) as conn:
        runs = RunRepository(conn)
        if not run_id:
            recent = runs.recent_runs(1)
            if not recent:
                return Manifest(run_id=f"manual__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}")
            run_id = recent[0].run_id
        refs: dict[str, int | str] = {}
        for row in runs.steps_of(run_id):
            if row.result:
                refs.update(row.result["refs"])
    return Manifest(run_id=run_id, refs=refs)


for _name, _entry in road.STEPS.items():
    if _name not in ("activate", "maintain", "report"):
        _step_command(_name, _entry)


@app.command()
def run(run_id: RunId = "") -> None:
    """The whole road in this process, without Airflow: ingest, route, the chosen path, report."""
    from heal_tasks.steps.engine.pipeline import run_pipeline

    settings = _settings()
    name = run_id or f"manual__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    result = run_pipeline(
        settings, name, lambda manifest: console.print(f"{manifest.step}: {manifest.note}", markup=False)
    )
    _print_report(settings, result.run_id)


@app.command()
def activate(generation: Annotated[int, typer.Argument(help="Generation to activate; 0 rolls back.")] = 0) -> None:
    """Promote a ready generation, or roll back to the previous one."""
    settings = _settings()
    manifest = Manifest(
        run_id=f"activate__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}", refs={"generation_id": generation}
    )
    console.print(road.load_step("activate").run(settings, manifest).note)


@app.command()
def maintain() -> None:
    """Drop old generations and files, vacuum, measure the recall of what is served."""
    manifest = Manifest(run_id=f"maintain__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}")
    console.print(road.load_step("maintain").run(_settings(), manifest).note, markup=False)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: K = 10,
    topic: Topic = None,
    words: Annotated[bool, typer.Option("--words", help="Also by its words, both scores added.")] = False,
) -> None:
    """Encode a text with the active generation's model and print the nearest chunks."""
    from heal_tasks.serve.search import Searcher

    searcher = Searcher(_settings())
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

    with connect(_settings().require_database_url()) as conn:
        _print_hits("distance", [(hit.distance, hit) for hit in find_similar(conn, document, k=k, topic=topic)])


@app.command()
def topics(
    run: Annotated[int | None, typer.Option(help="Topic run; the active generation's, or else the latest.")] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Deepest level to print.")] = None,
    selection: Annotated[bool, typer.Option("--selection", help="Also how the root's k was chosen.")] = False,
) -> None:
    """Print the topic tree: documents, words, stability of each split, and why a leaf stayed one."""
    from heal_tasks.cli.topics import print_topics

    print_topics(_settings(), console, topic_run_id=run, depth=depth, selection=selection)


@app.command()
def questions(
    document: Annotated[int | None, typer.Option(help="document_id, from heal.document; all if left out.")] = None,
    chunk: Annotated[int | None, typer.Option(help="Only this chunk; its document need not be named.")] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="Also what the filters refused, and why.")] = False,
) -> None:
    """Print a document's questions with answer and evidence, chunk by chunk; or how many there are of each sort."""
    from heal_tasks.cli.questions import print_questions

    print_questions(_settings(), console, document_id=document, chunk_id=chunk, dropped=dropped)


@app.command()
def judgments(
    file: Annotated[
        Path, typer.Argument(help='JSON Lines: {"query": ..., "document": id in its source, "split": train|test}.')
    ],
    source: Annotated[str | None, typer.Option(help="The documents' source; needed where there are several.")] = None,
) -> None:
    """Import people's questions with the documents that answer them; they train, and judge before all others."""
    from heal_tasks.cli.judgments import import_judgments

    import_judgments(_settings(), console, file, source)


@app.command()
def batches(
    cancel: Annotated[str, typer.Option("--cancel", help="Id of a batch that is not to be waited for.")] = "",
) -> None:
    """Print the batches of language-model calls that are under way, or cancel one."""
    from heal_tasks.cli.batches import cancel_batch, print_batches

    settings = _settings()
    if cancel:
        cancel_batch(settings, console, cancel)
    print_batches(settings, console)


@app.command()
def status() -> None:
    """What runs on this machine, the generations, what is not served yet, and the latest runs."""
    from heal_tasks.local.stack import status as stack_status
    from heal_tasks.store.db import connect
    from heal_tasks.store.documents.corpus import Corpus
    from heal_tasks.store.generations.generations import GenerationRepository
    from heal_tasks.store.runs.runs import RunRepository

    settings = _settings()
    for line in stack_status(settings).lines():
        console.print(line, markup=False, highlight=False)
    with connect(settings.require_database_url()) as conn:
        generations = GenerationRepository(conn)
        table = Table("generation", "kind", "state", "dimensions", "NUDGE", "recall@10", "activated", "model")
        for item in generations.list("active", "previous", "ready", "building"):
            table.add_row(
                str(item.generation_id), item.kind, item.state, str(item.dims),
                f"{item.nudge_variant} {item.nudge_theta:.2f}", "" if item.recall is None else f"{item.recall:.3f}",
                f"{item.activated_at:%Y-%m-%d %H:%M}" if item.activated_at else "", item.model_uri,
            )  # fmt: skip
        console.print(table)
        active = generations.active()
        pending = Corpus(conn).pending(active.generation_id if active else None, None)
        console.print(f"{pending.documents} documents; {pending.chunks} chunks not served yet")
        runs = Table("run", "route", "started", "took", "verdict")
        for row in RunRepository(conn).recent_runs(10):
            took = format_duration((row.finished_at - row.started_at).total_seconds()) if row.finished_at else "running"
            verdict = (row.verdict or "").split("\n")[0]
            runs.add_row(row.run_id, row.route or "", f"{row.started_at:%Y-%m-%d %H:%M}", took, verdict)
        console.print(runs)


@app.command()
def plan() -> None:
    """What a run would do now: documents, route, questions to pay for, vectors to compute. Changes nothing."""
    from heal_tasks.steps.engine.dry_run import make_plan

    for line in make_plan(_settings()).lines():
        console.print(line, markup=False, highlight=False)


@app.command()
def doctor() -> None:
    """Check database, model, LLM endpoint, S3, disk, GPU and Airflow; say what to do about each failure."""
    from heal_tasks.cli.doctor import examine

    failed = False
    for finding in examine(_settings()):
        mark = {"ok": "[green]ok  [/green]", "note": "[yellow]note[/yellow]", "fail": "[red]FAIL[/red]"}[finding.level]
        console.print(mark, finding.subject.ljust(10), end=" ")
        print_line(console, finding.text)
        failed = failed or finding.level == "fail"
    raise typer.Exit(1 if failed else 0)


@app.command()
def migrate() -> None:
    """Create or update schema heal in the database."""
    from heal_tasks.store.db import connect
    from heal_tasks.store.migrate import migrate as apply_migrations

    with connect(_settings().require_database_url()) as conn:
        console.print(", ".join(apply_migrations(conn)) or "schema heal is up to date")


ONE_MACHINE = "One machine"


@app.command(rich_help_panel=ONE_MACHINE)
def up() -> None:
    """Start the embedded Postgres and Airflow, or what of them does not run."""
    from heal_tasks.cli.demo import print_access, sayer
    from heal_tasks.local.stack import up as start

    print_access(start(_settings(), sayer(console)), console)


@app.command(rich_help_panel=ONE_MACHINE)
def down() -> None:
    """Stop Airflow and the embedded Postgres; all data stays."""
    from heal_tasks.cli.demo import sayer
    from heal_tasks.local.stack import down as stop

    stop(_settings(), sayer(console))


@app.command(rich_help_panel=ONE_MACHINE)
def demo() -> None:
    """Start everything, fill the inbox with real documents, run the nightly DAG and show its report."""
    from heal_tasks.cli.demo import demo as run_demo

    raise typer.Exit(run_demo(load_settings()))


@app.command(rich_help_panel=ONE_MACHINE)
def demo_nudge() -> None:
    """Drop twenty new documents, a changed and a deleted one into the inbox, and run the DAG."""
    from heal_tasks.cli.demo import demo_nudge as run_demo

    raise typer.Exit(run_demo(load_settings()))


@app.command(rich_help_panel=ONE_MACHINE)
def watch(run_id: RunId = "") -> None:
    """Follow a run in the terminal and show its report."""
    from heal_tasks.cli.demo import watch_run

    raise typer.Exit(watch_run(load_settings(), run_id or None))


@app.command()
def report(run_id: RunId = "") -> None:
    """Print a run's report again."""
    settings = _settings()
    _print_report(settings, run_id or _manifest(settings, "", new=False).run_id)


def _print_report(settings: Settings, run_id: str) -> None:
    from heal_tasks.cli.run_summary import print_report
    from heal_tasks.store.db import connect

    with connect(settings.require_database_url(), autocommit=True) as conn:
        print_report(conn, run_id, console)


def _print_hits(measure: str, hits: Sequence[tuple[float, "Hit | HybridHit"]]) -> None:
    table = Table(measure, "document_id", "title", "text")
    for value, hit in hits:
        text = " ".join(hit.text.split())
        table.add_row(f"{value:.3f}", str(hit.document_id), hit.title, text[:160] + ("…" if len(text) > 160 else ""))
    console.print(table)
