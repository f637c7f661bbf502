"""Who may read what, as it is set up and tried out: what a reader is shown of documents that are for others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from heal_tasks.store.db import Connection, scalar

_PROBE = "heal_doctor"
"""A principal that nobody has."""
_VIEWS: LiteralString = "SELECT document_id FROM heal.embedding UNION SELECT document_id FROM heal.lineage"
_SEARCHES: LiteralString = """
SELECT document_id FROM heal.search(%(vector)s::vector, %(gen)s::bigint, 100)
UNION SELECT document_id FROM heal.find(%(title)s, 100)
"""
_GRANTED: LiteralString = """
SELECT DISTINCT c.relname, r.rolname FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE c.oid IN ('heal.document'::regclass, 'heal.chunk'::regclass) AND a.privilege_type = 'SELECT'
    AND r.oid <> c.relowner AND r.rolname <> 'heal_pipeline'
    AND pg_has_role(r.oid, 'MEMBER')
"""


@dataclass(frozen=True)
class Permissions:
    """The ways by which documents are kept from readers, and the faults found when they were tried."""

    restricted: int  # documents with a list of readers
    by_setting: bool  # a session may name its principals itself, by heal.principals
    row_security: bool  # heal.document and heal.chunk have policies
    faults: list[str]

    def describe(self) -> str:
        """A sentence on what is in force."""
        principals = (
            "heal.principals, which every session may set, or from its roles"
            if self.by_setting
            else "a function of the session's user"
        )
        rows = "on" if self.row_security else "off"
        documents = f"{self.restricted:,} documents have" if self.restricted else "no document has"
        return (
            f"{documents} a list of readers; principals come from {principals}; row-level security is {rows}; "
            "readers were shown nothing else"
        )


def examine_permissions(conn: Connection) -> Permissions:
    """Read how readers are kept apart, and search as a reader with and without principals.

    Nothing is changed: the transaction is rolled back. The user needs the rights of ``heal_pipeline``.
    """
    with conn.transaction(force_rollback=True):
        restricted = int(scalar(conn, "SELECT count(*) FROM heal.document WHERE acl IS NOT NULL"))
        _name(conn, [_PROBE])
        by_setting = scalar(conn, "SELECT heal.principals()") == [_PROBE]
        row_security = bool(
            scalar(
                conn,
                "SELECT bool_and(relrowsecurity) FROM pg_class "
                "WHERE oid IN ('heal.document'::regclass, 'heal.chunk'::regclass)",
            )
        )
        return Permissions(restricted, by_setting, row_security, list(_faults(conn)) if restricted else [])


def _faults(conn: Connection) -> Iterator[str]:
    row = conn.execute(
        "SELECT d.acl[1], d.title, s.embedding::text, s.generation_id FROM heal.served s "
        "JOIN heal.document d USING (document_id) WHERE d.acl <> '{}' LIMIT 1"
    ).fetchone()
    principal, title, vector, gen = row or (_PROBE, "", None, None)
    tried: list[tuple[str, str, sql.Composed | sql.SQL]] = [("heal_reader", "views", sql.SQL(_VIEWS))]
    if row:
        tried.append(("heal_reader", "searches", sql.SQL(_SEARCHES)))
    for table, role in conn.execute(_GRANTED).fetchall():
        rows_of = sql.SQL("SELECT document_id FROM {}").format(sql.Identifier("heal", table))
        tried.append((role, f"heal.{table}", rows_of))
    for role, what, query in tried:
        for principals in ([], [principal]):
            _name(conn, principals)
            if scalar(conn, "SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = %s", (role,)):
                conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            allowed = scalar(conn, "SELECT heal.permitted()")
            rows = conn.execute(query, {"title": title, "vector": vector, "gen": gen}).fetchall()
            conn.execute("RESET ROLE")
            hidden = "document_id = ANY(%s) AND NOT (acl IS NULL OR acl && %s::text[])"
            count = scalar(
                conn, f"SELECT count(*) FROM heal.document WHERE {hidden}", ([key for (key,) in rows], allowed)
            )
            if count:
                yield (
                    f"{role} with the principals {', '.join(allowed) or 'none'} is shown {count:,} documents by {what} "
                    "that are for others; run `python -m heal_tasks migrate`, and for a table that is granted to a "
                    "role CALL heal.row_security(true), or REVOKE the right"
                )


def _name(conn: Connection, principals: list[str]) -> None:
    conn.execute("SELECT set_config('heal.principals', %s::text[]::text, true)", (principals,))
