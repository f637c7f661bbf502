"""Several corpora in one deployment: each has a file ``corpora/NAME.env`` of settings, and a database of its own.

What is read by ``load_settings`` belongs to the corpus that was entered last in this context (a thread, a request, a
task); without one it is the deployment's own.
"""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from heal_tasks.core.environment import variables_in
from heal_tasks.core.errors import SettingsError
from heal_tasks.core.source_tables import own_sources

if TYPE_CHECKING:
    from heal_tasks.core.settings import Settings

FOLDER = Path("corpora")
"""Of the corpora's files, in the working folder, as ``.env``."""

NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")
"""Names of corpora: they are a part of the names of databases, DAGs and folders. ``__`` divides them there."""

_entered: ContextVar[str] = ContextVar("corpus", default="")


def corpus_names() -> list[str]:
    """The names of all corpora, sorted; a name that none can have is refused by ``load_settings``."""
    return sorted(path.stem for path in FOLDER.glob("*.env"))


def check_name(name: str) -> None:
    """Raise SettingsError for a name that no corpus can have."""
    if not NAME.fullmatch(name) or "__" in name:
        raise SettingsError(
            f"{name!r} is no name of a corpus: take up to 30 letters a to z, digits and single underscores, and begin "
            "with a letter"
        )


def corpus_values(name: str) -> dict[str, str]:
    """The variables of a corpus's file, by name; SettingsError if there is none."""
    check_name(name)
    path = FOLDER / f"{name}.env"
    if not path.is_file():
        known = ", ".join(corpus_names()) or "none"
        raise SettingsError(f"there is no corpus {name!r}: {path.resolve()} is missing; there are: {known}")
    return variables_in(path)


def entered_corpus() -> str:
    """The name of the corpus that was entered; empty for the deployment's own."""
    return _entered.get()


def enter_corpus(name: str) -> None:
    """Enter a corpus for the rest of this context."""
    _entered.set(name)


@contextmanager
def in_corpus(name: str) -> Iterator[None]:
    """Enter a corpus for the block; empty for the deployment's own."""
    token = _entered.set(name)
    try:
        yield
    finally:
        _entered.reset(token)


def dag_id_of(dag_id: str, corpus: str) -> str:
    """The id of a corpus's DAG: ``heal_realign__legal``; without a corpus that of the deployment's own."""
    return f"{dag_id}__{corpus}" if corpus else dag_id


def corpus_of(dag_id: str) -> str:
    """The corpus of a DAG."""
    return dag_id.partition("__")[2]


def corpus_database(name: str, url: str) -> str:
    """The URL of a corpus's database: of its file, or else beside that of the deployment, ``…/heal_legal``."""
    return corpus_values(name).get("HEAL_DATABASE_URL") or database_beside(url, name)


def database_beside(url: str, name: str) -> str:
    """The URL of a corpus's database on the deployment's server: ``…/heal`` and ``legal`` give ``…/heal_legal``."""
    parts = urlsplit(url)
    if not parts.path.strip("/"):
        raise SettingsError("HEAL_DATABASE_URL names no database, so those of the corpora cannot be named after it")
    return parts._replace(path=f"{parts.path}_{name}").geturl()


def corpus_overrides(name: str, known: Collection[str], shared: "Settings") -> dict[str, Any]:
    """The settings in which a corpus differs from the deployment: of its file, and places of its own.

    Args:
        name: the corpus.
        known: names of all settings.
        shared: the deployment's settings.

    Raises:
        SettingsError: there is no such corpus, its file sets what is no setting of a corpus, or it has the deployment's
            database.
    """
    file = {key.removeprefix("HEAL_").lower(): value for key, value in corpus_values(name).items()}
    if wrong := sorted((file.keys() - set(known)) | (file.keys() & {"corpus", "var_dir"})):
        names = ", ".join(f"HEAL_{item}".upper() for item in wrong)
        raise SettingsError(
            f"corpora/{name}.env sets {names}, which a corpus does not have; docs/settings.md lists all"
        )
    var_dir, tables = shared.var_dir / "corpora" / name, FOLDER / f"{name}.toml"
    values = {
        "var_dir": var_dir,
        "artifacts_uri": f"{shared.artifacts_uri.rstrip('/')}/corpora/{name}",
        "sources_file": tables if tables.is_file() else os.devnull,
        "sources": own_sources(var_dir, tables if tables.is_file() else None),
        "source_roots": "",
    }
    if url := shared.database_url:
        values["database_url"] = database_beside(url.get_secret_value(), name)
    values |= {key: value for key, value in file.items() if value}
    if url and values["database_url"] == url.get_secret_value():
        raise SettingsError(f"corpus {name} has the deployment's own HEAL_DATABASE_URL; give it a database of its own")
    return values
