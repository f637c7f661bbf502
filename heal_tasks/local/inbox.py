"""The demo's documents: a first corpus, and later what a night would bring (new, changed, deleted).

Everything is written beside its name and renamed, so an ingest at the same time never reads half a file.
"""

import json
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
"""Installed with this project anyway, with enough reference documentation for any number of documents of the demo."""
NEW_DOCUMENTS = 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """What ``drop_more`` did.

    Args:
        new: titles of the new documents.
        changed: title of the changed one.
        deleted: title of the deleted one.
        file: the file that the new ones are in.
    """

    new: tuple[str, ...]
    changed: str
    deleted: str
    file: Path


def fill(settings: Settings) -> int:
    """Put the first documents into the inbox, unless the demo has done so before.

    Args:
        settings: ``demo_packages``, ``demo_documents``, ``seed`` and ``var_dir`` are used.

    Returns:
        How many documents were written; 0 where they are there already.

    Raises:
        SourceError: a package is not installed.
    """
    if _first_documents(settings):
        return 0
    written = write_sample(DEMO_PACKAGES, _inbox(settings), settings.demo_documents, settings.seed)
    _remember(settings, {"documents": written, "batches": 0})
    return written


def drop_more(settings: Settings) -> Arrival:
    """Put twenty documents that were never there into the inbox, change one and delete one.

    Each call takes the next twenty and changes and deletes another.

    Args:
        settings: the same as for ``fill``.

    Returns:
        What was done.

    Raises:
        InputError: ``fill`` has not been called here, or the packages have no more documents.
    """
    documents = _first_documents(settings)
    if not documents:
        raise InputError(f"{_inbox(settings)} does not hold the demo's documents; run `make demo` first")
    batch = int(_memory(settings)["batches"]) + 1
    offset = documents + NEW_DOCUMENTS * (batch - 1)
    new = sample(DEMO_PACKAGES, NEW_DOCUMENTS, settings.seed, offset)
    if len(new) < NEW_DOCUMENTS:
        raise InputError(
            f"the demo's packages have no {NEW_DOCUMENTS} documents beyond the {offset} that were taken; start anew "
            "with a smaller HEAL_DEMO_DOCUMENTS in another HEAL_VAR_DIR"
        )
    file = _inbox(settings) / f"arrived-{batch:03}.jsonl"
    # The largest package loses and changes one document per batch, and has enough of them.
    largest = max(_package_files(settings), key=lambda path: path.stat().st_size)
    rows = _read(largest)
    changed, deleted = rows[(batch - 1) % (len(rows) - 1)], rows[-1]
    note = f"Note of batch {batch}: this text was changed by `make demo-nudge`, and its vector has to follow."
    changed["text"] = f"{note}\n\n{changed['text']}"
    _write(largest, rows[:-1])
    _write(file, new)
    _remember(settings, {"documents": documents, "batches": batch})
    return Arrival(tuple(item["title"] for item in new), changed["title"], deleted["title"], file)


def _inbox(settings: Settings) -> Path:
    return settings.var_dir / "inbox"


def _package_files(settings: Settings) -> list[Path]:
    paths = [_inbox(settings) / f"{package}.jsonl" for package in DEMO_PACKAGES]
    return [path for path in paths if path.exists()]


def _first_documents(settings: Settings) -> int:
    """How many documents ``fill`` has written here; 0 where it has not, or the inbox was emptied since."""
    return int(_memory(settings)["documents"]) if _package_files(settings) else 0


def _memory(settings: Settings) -> dict[str, Any]:
    path = settings.var_dir / "demo.json"
    value: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"documents": 0, "batches": 0}
    return value


def _remember(settings: Settings, value: dict[str, int]) -> None:
    path = settings.var_dir / "demo.json"
    path.with_suffix(".tmp").write_text(json.dumps(value))
    path.with_suffix(".tmp").replace(path)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    unfinished.replace(path)
