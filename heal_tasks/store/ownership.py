"""Who owns what in schema heal: what migrations made belongs to ``heal_owner``, tables of vectors to ``heal_pipeline``.

The pipeline may make tables in the schema, so it could make any object there. A routine of its own that a migration
gave to the owner would run with the owner's rights, and an overload of a search function would be called in its place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import LiteralString

from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection, scalar

_CREATE = re.compile(r"CREATE (?:OR REPLACE )?(TABLE|VIEW|FUNCTION|PROCEDURE)(?: IF NOT EXISTS)? heal\.(\w+)\s*\(?")

# Objects of the schema itself, without those that belong to another object, such as indexes and row types.
_OBJECTS: LiteralString = r"""
WITH object AS (
    SELECT 'pg_class'::regclass AS catalog, c.oid, relowner AS owner, relname AS short FROM pg_class c
    WHERE relnamespace = 'heal'::regnamespace AND (
        relkind IN ('r', 'v', 'm', 'f', 'p', 'c') OR relkind = 'S' AND NOT EXISTS (
            SELECT FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
    UNION ALL SELECT 'pg_type'::regclass, oid, typowner, typname FROM pg_type
    WHERE typnamespace = 'heal'::regnamespace AND typrelid = 0 AND typelem = 0 AND typtype <> 'm'
    UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, proname FROM pg_proc WHERE pronamespace = 'heal'::regnamespace
    UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner, oprname FROM pg_operator
    WHERE oprnamespace = 'heal'::regnamespace
    UNION ALL SELECT 'pg_collation'::regclass, oid, collowner, collname FROM pg_collation
    WHERE collnamespace = 'heal'::regnamespace
    UNION ALL SELECT 'pg_conversion'::regclass, oid, conowner, conname FROM pg_conversion
    WHERE connamespace = 'heal'::regnamespace
    UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner, cfgname FROM pg_ts_config
    WHERE cfgnamespace = 'heal'::regnamespace
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictowner, dictname FROM pg_ts_dict
    WHERE dictnamespace = 'heal'::regnamespace
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxowner, stxname FROM pg_statistic_ext
    WHERE stxnamespace = 'heal'::regnamespace
), named AS (
    SELECT regexp_replace(i.type, 'composite | object', '') AS kind, i.identity AS name, o.oid, o.short,
           o.owner::regrole::text AS owner,
           i.type = 'table' AND o.short ~ '^((base|question)_s|(vec|lex|push)_g)\d+$' AS vectors,
           -- Roles that may do anything with the schema anyway.
           o.owner IN (
               SELECT r.oid FROM pg_roles r WHERE r.rolsuper OR r.rolname = 'heal_owner'
               UNION ALL SELECT m.member FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
               WHERE r.rolname = 'heal_owner'
               UNION ALL SELECT d.datdba FROM pg_database d WHERE d.datname = current_database()
               UNION ALL SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'heal') AS trusted
    FROM object o CROSS JOIN LATERAL pg_identify_object(o.catalog, o.oid, 0) i
), found AS (
    SELECT n.*, format('DROP %%s %%s', upper(kind), name) AS drop,
           CASE WHEN kind IN ('table', 'view') THEN short = ANY (%(tables)s::text[])
           ELSE EXISTS (SELECT FROM unnest(%(routines)s::text[]) r WHERE to_regprocedure(r) = n.oid) END AS made,
           CASE WHEN vectors THEN 'heal_pipeline' ELSE 'heal_owner' END AS wanted
    FROM named n
)
SELECT kind, name, owner, drop, wanted FROM found
"""

# Code that runs with the rights of whoever reads or writes a table of vectors, such as the owner of a search function:
# all that ``create_tables`` and ``build_indexes`` do not make. Functions of the system may run any SQL (ts_rewrite),
# but not those that an index may call.
_CODE: LiteralString = r"""
WITH calling AS (
    SELECT d.classid, d.objid FROM pg_depend d
    WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND NOT EXISTS (
        SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e')
), code AS (
    SELECT 'trigger' AS kind, tgname AS name, tgrelid AS relid, 'DROP TRIGGER %1$I ON %2$s' AS drop
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'rule', rulename, ev_class, 'DROP RULE %1$I ON %2$s' FROM pg_rewrite WHERE rulename <> '_RETURN'
    UNION ALL SELECT 'policy', polname, polrelid, 'DROP POLICY %1$I ON %2$s' FROM pg_policy
    UNION ALL SELECT 'constraint', conname, conrelid, 'ALTER TABLE %2$s DROP CONSTRAINT %1$I' FROM pg_constraint
    WHERE contype = 'c' AND (oid IN (SELECT objid FROM calling WHERE classid = 'pg_constraint'::regclass)
        OR pg_get_constraintdef(oid) !~ (
            '^CHECK \(\(abs\(\([\w".]*vector_norm\(embedding\) - \(1\)::double precision\)\)'
            ' < \(0\.001\)::double precision\)\)$'))
    UNION ALL SELECT 'default', a.attname, d.adrelid, 'ALTER TABLE %2$s ALTER %1$I DROP DEFAULT'
    FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    UNION ALL SELECT 'column', attname, attrelid, 'ALTER TABLE %2$s DROP COLUMN %1$I' FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    WHERE attnum > 0 AND t.typnamespace <> 'pg_catalog'::regnamespace AND NOT EXISTS (
        SELECT FROM pg_depend e WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid AND e.deptype = 'e')
    UNION ALL SELECT 'child', (pg_identify_object('pg_class'::regclass, inhrelid, 0)).identity, inhparent,
        'DROP TABLE %1$s' FROM pg_inherits
    UNION ALL SELECT 'index', i.relname, x.indrelid, 'DROP INDEX heal.%1$I'
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
    WHERE i.oid IN (SELECT objid FROM calling WHERE classid = 'pg_class'::regclass)
)
SELECT kind, format('%s ON heal.%I', name, c.relname), c.relowner::regrole::text,
       format(drop, name, format('heal.%I', c.relname)), ''
FROM code JOIN pg_class c ON c.oid = relid
WHERE c.relnamespace = to_regnamespace('heal') AND c.relname ~ '^((base|question)_s|(vec|lex|push)_g)\d+$' ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class HealObject:
    """An object in schema heal."""

    kind: str  # as DROP names it
    name: str  # with schema, and arguments of a routine
    owner: str
    drop: str  # statement
    wanted: str  # the owner that it should have, if a migration made it

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.owner}"


def packaged_sql() -> dict[str, str]:
    """The text of every SQL file of this version, by name."""
    folder = files("heal_tasks.store") / "sql"
    return {item.name: item.read_text("utf-8") for item in folder.iterdir() if item.name.endswith(".sql")}


def made_by(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """The ``tables`` and views that SQL files make, and the ``routines`` with the types of their arguments."""
    tables, routines = {"schema_migration"}, set[str]()
    for text in texts.values():
        for found in _CREATE.finditer(text):
            if found[1] in ("TABLE", "VIEW"):
                tables.add(found[2])
            else:
                routines.add(f"heal.{found[2]}({_types(text[found.end() :])})")
    return {"tables": sorted(tables), "routines": sorted(routines)}


def _types(text: str) -> str:
    """The types of a routine's arguments, from the text after the opening parenthesis."""
    depth, arguments = 0, [""]
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth < 0:
            break
        if letter == "," and not depth:
            arguments.append("")
        else:
            arguments[-1] += letter
    words = [argument.strip().removeprefix("VARIADIC ").split() for argument in arguments]
    return ", ".join(" ".join(word[1:]).split(" DEFAULT ")[0] for word in words if word and word[0] != "OUT")


def _objects(conn: Connection, condition: LiteralString) -> list[HealObject]:
    rows = conn.execute(f"{_OBJECTS} WHERE {condition} ORDER BY kind, name", made_by(packaged_sql())).fetchall()
    return [HealObject(*row) for row in rows]


def strangers(conn: Connection) -> list[HealObject]:
    """Objects of others than trusted roles, except the pipeline's tables of vectors, and code on these tables."""
    code = [HealObject(*row) for row in conn.execute(_CODE).fetchall()]
    return _objects(conn, "NOT trusted AND NOT vectors") + code


def unknown_objects(conn: Connection) -> list[HealObject]:
    """Tables, views and routines of trusted roles that no SQL file of this version makes."""
    kinds: LiteralString = "kind IN ('table', 'view', 'function', 'procedure', 'aggregate')"
    return _objects(conn, f"trusted AND NOT vectors AND NOT made AND {kinds}")


def misowned(conn: Connection) -> list[HealObject]:
    """What migrations made, and tables of vectors, with another owner than they should have."""
    return _objects(conn, "(made OR vectors) AND owner <> wanted AND to_regrole('heal_owner') IS NOT NULL")


def refuse_strangers(conn: Connection) -> None:
    """Raise StoreError if there are any: what a migration owns, it must have made itself."""
    if found := strangers(conn):
        names = "; ".join(map(str, found[:5])) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        drops = "; ".join(item.drop for item in found[:5])
        raise StoreError(
            f"schema heal has objects that no migration made: {names}. They could run with the rights of heal_owner, "
            f"so nothing was migrated. Look at them, then as their owner: {drops}"
        )


def hand_over(conn: Connection) -> None:
    """Give schema and objects to the roles that should own them, and be ``heal_owner`` until the transaction ends.

    Nothing happens for a user who is no member of ``heal_owner``.
    """
    if not scalar(conn, "SELECT count(*) FROM pg_roles WHERE rolname = 'heal_owner' AND pg_has_role(oid, 'MEMBER')"):
        return
    conn.execute("ALTER SCHEMA heal OWNER TO heal_owner; GRANT USAGE, CREATE ON SCHEMA heal TO heal_pipeline")
    for item in misowned(conn):
        statement = sql.SQL("ALTER {} {} OWNER TO {}")
        parts = sql.SQL(item.kind), sql.SQL(item.name), sql.Identifier(item.wanted)
        conn.execute(statement.format(*parts))
    conn.execute("SET LOCAL ROLE heal_owner")
