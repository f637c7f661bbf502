"""The demo's documents: a first corpus, and the changes of a night (new, changed and deleted documents).

Every file is written beside its name and renamed, so an ingest at the same time never reads half a file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal_tasks.core.errors import InputError
from heal_tasks.core.settings import Settings
from heal_tasks.sources.samples import sample, write_sample

DEMO_PACKAGES = (
    "numpy", "scipy", "sklearn", "pandas", "networkx", "sqlalchemy",
    "sympy", "torch", "transformers", "psycopg", "openai", "rich",
)  # fmt: skip
"""Installed with this project anyway, with enough reference documentation for the demo."""
NEW_DOCUMENTS = 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """Titles of the documents that ``drop_more`` has added, changed and deleted, and the file of the new ones."""

    new: tuple[str, ...]
    changed: str
    deleted: str
    file: Path


def fill(settings: Settings, packages: Sequence[str] = DEMO_PACKAGES) -> int:
    """Put the first documents into the inbox, and return their number; 0 where the demo has done so before.

    Raises:
        SourceError: a package is not installed.
    """
    if _package_files(settings, packages):
        return 0
    written = write_sample(packages, _inbox(settings), settings.demo_documents, settings.seed)
    _write(_memory(settings), [{"documents": written, "batches": 0}])
    return written


def drop_more(settings: Settings, packages: Sequence[str] = DEMO_PACKAGES) -> Arrival:
    """Put twenty new documents into the inbox, change one document and delete one.

    Each call takes the next twenty and changes and deletes another document.

    Raises:
        InputError: ``fill`` has not been called here, or the packages have no more documents.
    """
    if not _package_files(settings, packages):
        raise InputError(f"{_inbox(settings)} does not hold the demo's documents; run `make demo` first")
    (memory,) = _read(_memory(settings))
    batch = int(memory["batches"]) + 1
    offset = int(memory["documents"]) + NEW_DOCUMENTS * (batch - 1)
    new = sample(packages, NEW_DOCUMENTS, settings.seed, offset)
    if len(new) < NEW_DOCUMENTS:
        raise InputError(
            f"the demo's packages have no {NEW_DOCUMENTS} documents beyond the {offset} that were taken; start anew "
            "with a smaller HEAL_DEMO_DOCUMENTS in another HEAL_VAR_DIR"
        )
    file = _inbox(settings) / f"arrived-{batch:03}.jsonl"
    # The largest package has enough documents to lose and change one per batch.
    largest = max(_package_files(settings, packages), key=lambda path: path.stat().st_size)
    rows = _read(largest)
    changed, deleted = rows[(batch - 1) % (len(rows) - 1)], rows[-1]
    note = f"Note of batch {batch}: this text was changed by `make demo-nudge`, and its vector has to follow."
    changed["text"] = f"{note}\n\n{changed['text']}"
    _write(largest, rows[:-1])
    _write(file, new)
    _write(_memory(settings), [{**memory, "batches": batch}])
    return Arrival(tuple(item["title"] for item in new), changed["title"], deleted["title"], file)


def _inbox(settings: Settings) -> Path:
    return settings.var_dir / "inbox"


def _memory(settings: Settings) -> Path:
    return settings.var_dir / "demo.json"


def _package_files(settings: Settings, packages: Sequence[str]) -> list[Path]:
    """Files that ``fill`` has written; none where it has not run, or somebody has emptied the inbox."""
    paths = [_inbox(settings) / f"{package}.jsonl" for package in packages]
    return [path for path in paths if path.exists()] if _memory(settings).exists() else []


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    unfinished.replace(path)
