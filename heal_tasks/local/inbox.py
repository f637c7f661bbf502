"""The demo's documents: a first corpus, and the changes of a night (new, changed and deleted documents).

Every file is written beside its name and renamed, so an ingest at the same time never reads half a file.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from heal_tasks.core.errors import InputError
from heal_tasks.core.files import private_folder
from heal_tasks.core.settings import Settings
from heal_tasks.sources.samples import sample

DEMO_PACKAGES = (
    "numpy", "scipy", "sklearn", "pandas", "networkx", "sqlalchemy",
    "sympy", "torch", "transformers", "psycopg", "openai", "rich",
)  # fmt: skip
"""Installed with this project anyway, with enough reference documentation for the demo."""
NEW_DOCUMENTS = 20


class Arrival(NamedTuple):
    """Titles of the documents that ``drop_more`` has added, changed and deleted, and the file of the new ones."""

    new: list[str]
    changed: str
    deleted: str
    file: Path


def fill(settings: Settings, packages: Sequence[str] = DEMO_PACKAGES) -> int:
    """Put the first documents into the inbox, and return their number; 0 where the demo has done so before."""
    inbox = settings.var_dir / "inbox"
    if _package_files(inbox, packages):
        return 0
    by_package: dict[str, list[dict[str, Any]]] = {}
    for item in sample(packages, settings.demo_documents, settings.seed):
        by_package.setdefault(item["metadata"]["package"], []).append(item)
    private_folder(inbox)
    for package, rows in by_package.items():
        _write(inbox / f"{package}.jsonl", rows)
    return sum(map(len, by_package.values()))


def drop_more(settings: Settings, packages: Sequence[str] = DEMO_PACKAGES) -> Arrival:
    """Put the next twenty documents into the inbox, change and delete one document, in each call another."""
    inbox = settings.var_dir / "inbox"
    files = _package_files(inbox, packages)
    if not files:
        raise InputError(f"{inbox} does not hold the demo's documents; run `make demo` first")
    earlier = len(list(inbox.glob("arrived-*.jsonl")))
    # Each earlier batch has brought twenty documents, and deleted one of the first ones.
    offset = sum(len(_read(path)) for path in files) + earlier * (NEW_DOCUMENTS + 1)
    new = sample(packages, NEW_DOCUMENTS, settings.seed, offset)
    if len(new) < NEW_DOCUMENTS:
        raise InputError(
            f"the demo's packages have no {NEW_DOCUMENTS} documents beyond the {offset} that were taken; start anew "
            "with a smaller HEAL_DEMO_DOCUMENTS in another HEAL_VAR_DIR"
        )
    # The largest package has enough documents to lose and change one per batch.
    largest = max(files, key=lambda path: path.stat().st_size)
    *rows, deleted = _read(largest)
    changed = rows[earlier % len(rows)]
    note = f"Note of batch {earlier + 1}: this text was changed by `make demo-nudge`, and its vector has to follow."
    changed["text"] = f"{note}\n\n{changed['text']}"
    arrived = inbox / f"arrived-{earlier + 1:03}.jsonl"
    _write(arrived, new)
    _write(largest, rows)
    return Arrival([item["title"] for item in new], changed["title"], deleted["title"], arrived)


def _package_files(inbox: Path, packages: Sequence[str]) -> list[Path]:
    return [path for package in packages if (path := inbox / f"{package}.jsonl").exists()]


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    unfinished.replace(path)
