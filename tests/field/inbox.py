"""Helpers of the tests that put files into an inbox and read it."""

from itertools import count
from pathlib import Path
from typing import Any

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.questions.questions import QuestionRepository

_runs = count(1)


def put_all(settings: Settings, files: dict[str, str | bytes]) -> Path:
    """Write files into the inbox, by path, and return the inbox."""
    inbox = settings.var_dir / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        (inbox / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return inbox


def ingest(settings: Settings, **refs: int | str) -> Manifest:
    """Run the step in a run of its own."""
    return load_step("ingest").run(settings, Manifest(run_id=f"r{next(_runs)}", refs=dict(refs)))


def column(conn: Connection, query: str, *values: Any) -> list[Any]:
    """The first column of a query."""
    return [row[0] for row in conn.execute(query, values)]


def names(conn: Connection) -> list[str]:
    """External ids of live documents, sorted."""
    return column(conn, "SELECT external_id FROM heal.document WHERE deleted_at IS NULL ORDER BY 1")


def states(conn: Connection) -> dict[str, str]:
    """State of every file, by path."""
    return dict(conn.execute("SELECT path, state FROM heal.source_file").fetchall())


def open_faults(conn: Connection) -> list[str]:
    """Reasons in quarantine that still hold."""
    return column(conn, "SELECT reason FROM heal.quarantine WHERE mended_at IS NULL ORDER BY path, line")


def source(settings: Settings) -> str:
    """Spec of the inbox."""
    return settings.sources[0]


def judge(settings: Settings, auto: Connection, *pairs: tuple[str, str]) -> None:
    """Store judgments: query and external id."""
    stored, missing = QuestionRepository(auto).import_judgments(source(settings), pairs, lambda *_: "train")
    assert (stored, missing) == (len(pairs), [])


def judged(auto: Connection) -> list[tuple[str, str]]:
    """Query and name of the document, by the chunk that a judgment is at."""
    rows = auto.execute(
        "SELECT q.text, d.external_id FROM heal.question q JOIN heal.chunk c USING (chunk_id) "
        "JOIN heal.document d USING (document_id) WHERE c.superseded_at IS NULL ORDER BY 1, 2"
    )
    return rows.fetchall()


def chunks(auto: Connection) -> list[int]:
    """Ids of live chunks."""
    return column(auto, "SELECT chunk_id FROM heal.chunk WHERE superseded_at IS NULL ORDER BY 1")


def note(number: int) -> str:
    """A page with a title of its own."""
    return f"# Note {number}\n\nThe pump of line {number} needs oil every {number + 2} weeks.\n"
