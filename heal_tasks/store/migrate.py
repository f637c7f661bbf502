"""Migration of a database to this version's schema: numbered files once, others when they change, roles every time."""

from collections.abc import Iterator, Mapping

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from heal_tasks.core.corpora import corpus_database, corpus_names
from heal_tasks.core.errors import HealError, StoreError
from heal_tasks.core.ids import sha256_hex
from heal_tasks.store.db import (
    Connection,
    check_versions,
    connect,
    database_identity,
    password_of,
    register,
    scalar,
)
from heal_tasks.store.ownership import hand_over, packaged_sql, refuse_strangers

MIGRATE = "run `python -m heal_tasks migrate`"
EVERY_TIME = ("roles.sql", "rights.sql")
"""Files that each migration applies, and does not record."""
_UNUSABLE = (
    "SELECT n.oid::regnamespace::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
    "WHERE e.extname = 'vector' AND NOT has_schema_privilege(n.oid, 'USAGE')"
)


def migrate(conn: Connection) -> list[str]:
    """Apply missing files and record them, in one transaction, and return their names; concurrent callers are safe.

    The connection is of the owner of the database, without an open transaction. Roles and rights are set each time.

    Raises:
        StoreError: the server, pgvector or the schema is too old, the schema is of a newer version, this user may not
            create the extension, or a numbered file has been edited since it was applied, or objects of others depend
            on what it changes.
    """
    texts = packaged_sql()
    roles, rights = (texts.pop(name) for name in EVERY_TIME)
    with conn.transaction():
        check_versions(conn)
        _prepare(conn)
        # A user named heal would else find what others have made in schema heal before pgvector's and the system's.
        conn.execute(
            "SELECT set_config('search_path', format('pg_catalog, %I, pg_temp', n.nspname), true) "
            "FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
        )
        # An older version would put its own functions in place of those that the newer one needs.
        if newer := _newer(dict(conn.execute("SELECT name, sha256 FROM heal.schema_migration").fetchall()), texts):
            raise StoreError(newer)
        refuse_strangers(conn)
        conn.execute(roles)
        # Continues as heal_owner, if this user is a member.
        hand_over(conn)
        if place := scalar(conn, _UNUSABLE):
            raise StoreError(
                f"pgvector is in schema {place}, which heal_owner may not use; as its owner: GRANT USAGE ON SCHEMA "
                f"{place} TO heal_owner, heal_pipeline, heal_reader"
            )
        applied = apply_files(conn, texts)
        conn.execute(rights)
        conn.execute("RESET ROLE")
    register(conn)
    return applied


def schema_gap(conn: Connection) -> str:
    """The difference between the database's schema and this version's, with the cure; empty if there is none."""
    if scalar(conn, "SELECT to_regclass('heal.schema_migration')") is None:
        return f"the database has no schema heal; {MIGRATE}"
    recorded: dict[str, str] = dict(conn.execute("SELECT name, sha256 FROM heal.schema_migration").fetchall())
    packaged = {name: sha256_hex(text) for name, text in packaged_sql().items() if name not in EVERY_TIME}
    if newer := _newer(recorded, packaged):
        return newer
    if any(name[0].isdigit() for name in packaged.keys() - recorded.keys()):
        return f"the database's schema heal is older than this version; {MIGRATE}"
    if packaged.items() - recorded.items():
        return (
            "the functions in the database's schema heal are of another version of heal_tasks than this one; let the "
            f"newer of the two be the only one, and {MIGRATE} with it"
        )
    return ""


def refuse_gap(conn: Connection) -> None:
    """Raise StoreError unless the database's schema is this version's."""
    if gap := schema_gap(conn):
        raise StoreError(gap)


def _newer(recorded: Mapping[str, str], packaged: Mapping[str, str]) -> str:
    """Say that the database has numbered files which this version does not have; empty if it has none."""
    last, known = (max((name for name in names if name[0].isdigit()), default="") for names in (recorded, packaged))
    if last <= known:
        return ""
    return f"the database's schema heal is of a newer version of heal_tasks ({last}); install that version"


def migrate_corpora(url: str) -> Iterator[tuple[str, list[str]]]:
    """Migrate the database of each corpus, made beside the deployment's where it is missing.

    Yields:
        The corpus's name and the files that were applied to its database.

    Raises:
        StoreError: at the end, naming each corpus that was left out, and why: its file is wrong, its database cannot be
            reached or made, or it is that of another corpus; the rest as ``migrate``.
    """
    names = corpus_names()
    if not names:
        return
    with connect(url, vectors=False) as conn:
        owners, left_out = {database_identity(conn): "the deployment"}, list[str]()
    for name in names:
        try:
            place = corpus_database(name, url)
            _create_database(place, url, name)
            with connect(place) as conn:
                if (owner := owners.setdefault(database_identity(conn), name)) != name:
                    raise StoreError(same_database(name, owner))
                applied = migrate(conn)
        except HealError as error:
            left_out.append(f"corpus {name} was left out: {error}")
        else:
            yield name, applied
    if left_out:
        raise StoreError("\n".join(left_out))


def same_database(corpus: str, owner: str) -> str:
    """The message for a corpus that has the database of another one, or of the deployment."""
    return f"corpus {corpus} and {owner} have the same database; set another in corpora/{corpus}.env"


def _create_database(place: str, beside: str, corpus: str) -> None:
    """Make a corpus's database if it is to be on the deployment's server and is not there."""
    password_of(place)  # refuses what libpq would quote
    wanted, own = conninfo_to_dict(place), conninfo_to_dict(beside)
    if any(wanted.get(key) != own.get(key) for key in ("host", "hostaddr", "port")):
        return
    database = str(wanted.get("dbname"))
    try:
        with connect(beside, autocommit=True, vectors=False) as conn:
            if not scalar(conn, "SELECT count(*) FROM pg_database WHERE datname = %s", (database,)):
                conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise StoreError(
            f"corpus {corpus} needs database {database!r}, and this user may not create it; create it with this user "
            f"as its owner, or set HEAL_DATABASE_URL in corpora/{corpus}.env"
        ) from error


def apply_files(conn: Connection, texts: dict[str, str]) -> list[str]:
    """Apply SQL by file name: numbered files that are missing first, then others that are new or changed."""
    with conn.transaction():
        recorded: dict[str, str] = dict(conn.execute("SELECT name, sha256 FROM heal.schema_migration").fetchall())
        if "001_tables.sql" in recorded:  # the first file of schemas without numbered versions
            raise StoreError(
                "this database was made before version 0.1.0 and cannot be migrated: run pg_dump --schema=heal for a "
                "copy, then DROP SCHEMA heal CASCADE, migrate, and start a run, which reads the sources again"
            )
        return [
            name
            for name in sorted(texts, key=lambda name: (not name[0].isdigit(), name))
            if _apply(conn, name, texts[name], recorded.get(name))
        ]


def _prepare(conn: Connection) -> None:
    """Make extension, schema and the record of migrations, which is locked until the transaction ends."""
    try:
        _make_record(conn)
    except psycopg.errors.UniqueViolation:
        _make_record(conn)  # another migration has made them in this moment; it has ended, or this one would still wait
    conn.execute("LOCK TABLE heal.schema_migration IN EXCLUSIVE MODE")


def _make_record(conn: Connection) -> None:
    with conn.transaction():
        try:
            conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.errors.InsufficientPrivilege:
            raise StoreError(
                "this user may not create the extension vector; let a superuser run CREATE EXTENSION vector in this "
                "database, then migrate again"
            ) from None
        conn.execute("CREATE SCHEMA IF NOT EXISTS heal")
        conn.execute(
            "CREATE TABLE IF NOT EXISTS heal.schema_migration "
            "(name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )


def _apply(conn: Connection, name: str, text: str, recorded: str | None) -> bool:
    digest = sha256_hex(text)
    if digest == recorded:
        return False
    if recorded is not None and name[0].isdigit():
        raise StoreError(
            f"{name} has been edited after it was applied to this database; restore it and put the change into a "
            "new numbered file"
        )
    try:
        conn.execute(text)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise StoreError(
            f"{name} cannot be applied: {error.diag.message_detail}; drop that, migrate, and make it again"
        ) from error
    conn.execute(
        "INSERT INTO heal.schema_migration (name, sha256) VALUES (%s, %s) "
        "ON CONFLICT (name) DO UPDATE SET sha256 = EXCLUDED.sha256, applied_at = now()",
        (name, digest),
    )
    return True
