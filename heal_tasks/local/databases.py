"""The databases of this machine: the embedded server, what is in it, and which database holds the vectors."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from psycopg.conninfo import conninfo_to_dict

from heal_tasks.core.corpora import corpus_database, corpus_names
from heal_tasks.core.errors import SettingsError, StoreError
from heal_tasks.core.files import state_folder
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.local.processes import locked, write_private
from heal_tasks.store.db import connect, password_of
from heal_tasks.store.migrate import migrate, migrate_corpora

Say = Callable[[str], None]

VECTORS, DEMO = "heal", "heal_adopt"
"""Databases of the embedded server: of the vectors, and of the demo of adoption."""


def stack_lock(settings: Settings, say: Say) -> AbstractContextManager[None]:
    """Allow one command at a time to start or stop parts of this machine."""
    busy = "waiting for another `make up`, `make down` or `make demo-adopt` to finish"
    return locked(state_folder(settings.var_dir) / "stack.lock", lambda: say(busy))


def embedded_server(settings: Settings) -> EmbeddedPostgres:
    """The embedded server of this machine, running or not."""
    return EmbeddedPostgres(settings.machine_dir / "postgres")


def start_server(settings: Settings, say: Say) -> EmbeddedPostgres:
    """Start the embedded server unless it runs."""
    server = embedded_server(settings)
    if not server.running():
        say("starting the embedded Postgres")
    server.start()
    return server


def vector_database(settings: Settings) -> tuple[str, bool]:
    """URL of the vector database, and True if it is the embedded server's."""
    server = embedded_server(settings)
    given = settings.database_url.get_secret_value() if settings.database_url else None
    if given and not _is_on(server, given):
        return given, False
    return server.ensure_database(VECTORS), True


def prepare_vectors(settings: Settings, say: Say) -> tuple[str, bool]:
    """Migrate the vector database and those of the corpora, and write ``local.env``; return as ``vector_database``."""
    database_url, embedded = vector_database(settings)
    with connect(database_url) as conn:
        if applied := migrate(conn):
            say(f"database schema: applied {', '.join(applied)}")
    try:
        for name, applied in migrate_corpora(database_url):
            if applied:
                say(f"database schema of corpus {name}: applied {', '.join(applied)}")
    except StoreError as error:  # the deployment itself and the other corpora can work
        say(str(error))
    local_env = "# Written by `up` and `demo-adopt`, for the command line and for a shell.\n"
    write_private(settings.var_dir / "local.env", local_env + f"HEAL_DATABASE_URL='{database_url}'\n" * embedded)
    return database_url, embedded


def own_databases(settings: Settings) -> list[str]:
    """Names of this deployment's databases on the server of ``settings``: its own, those of its corpora and demo."""
    here = settings.require_database_url()
    shared = load_settings(corpus="", var_dir=settings.machine_dir) if settings.corpus else settings
    url, names = shared.require_database_url(), set[str]()
    server = embedded_server(settings)
    if _is_on(server, url):
        url = server.url(VECTORS)  # also where HEAL_DATABASE_URL names the demo's database
        names |= {VECTORS, DEMO} if _is_on(server, here) else set()
    urls = [url]
    for corpus in corpus_names():
        with contextlib.suppress(SettingsError):  # ``doctor`` names a corpus that is wrong
            urls.append(corpus_database(corpus, url))
    return sorted(names | {_place(item)[2] for item in urls if _place(item)[:2] == _place(here)[:2]})


def _is_on(server: EmbeddedPostgres, url: str) -> bool:
    """True if a URL is of the embedded server.

    The random password identifies it: a URL of the embedded server in a file or shell may have an old port.
    """
    with contextlib.suppress(StoreError):  # never started
        return password_of(url) == password_of(server.url())
    return False


def _place(url: str) -> tuple[str, str, str]:
    """Host, port and database of a URL."""
    parts = conninfo_to_dict(url)
    host, port = str(parts.get("host") or ""), str(parts.get("port") or 5432)
    return host, port, str(parts.get("dbname") or parts.get("user") or "")
