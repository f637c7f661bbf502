"""Who owns what in schema heal: objects of the migrations belong to ``heal_owner``, tables of vectors to ``heal_pipeline``.

The pipeline may make tables in the schema, so it could make any object there. A routine of its own that a migration gave
to the owner would run with the owner's rights, and an overload of a search function would be called in its place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection, scalar, select

VECTOR_TABLE = r"^((base|question)_s|(vec|lex|push)_g)\d+$"

_CREATE = re.compile(r"CREATE (?:OR REPLACE )?(TABLE|VIEW|FUNCTION|PROCEDURE)(?: IF NOT EXISTS)? heal\.(\w+)\s*(\(?)", re.I)

# Objects of the schema itself, without those that belong to another object, such as indexes and row types.
_OBJECTS = r"""
FROM (
    SELECT replace(replace(i.type, 'composite ', ''), ' object', '') AS kind, i.identity AS name, coalesce(i.name, p.proname) AS short, o.owner::regrole::text AS owner,
           o.owner AS owner_oid, o.relkind, format('DROP %%s %%s', upper(replace(replace(i.type, 'composite ', ''), ' object', '')), i.identity) AS drop
    FROM (
        SELECT 'pg_class'::regclass AS catalog, oid, relowner AS owner, relkind::text FROM pg_class
        WHERE relnamespace = 'heal'::regnamespace AND relkind IN ('r', 'v', 'm', 'f', 'p', 'c')
        UNION ALL SELECT 'pg_class'::regclass, oid, relowner, relkind::text FROM pg_class c
        WHERE relnamespace = 'heal'::regnamespace AND relkind = 'S' AND NOT EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i'))
        UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, '' FROM pg_proc WHERE pronamespace = 'heal'::regnamespace
        UNION ALL SELECT 'pg_type'::regclass, oid, typowner, '' FROM pg_type
        WHERE typnamespace = 'heal'::regnamespace AND typrelid = 0 AND typelem = 0 AND typtype <> 'm'
        UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner, '' FROM pg_operator WHERE oprnamespace = 'heal'::regnamespace
        UNION ALL SELECT 'pg_collation'::regclass, oid, collowner, '' FROM pg_collation WHERE collnamespace = 'heal'::regnamespace
        UNION ALL SELECT 'pg_conversion'::regclass, oid, conowner, '' FROM pg_conversion WHERE connamespace = 'heal'::regnamespace
        UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner, '' FROM pg_ts_config WHERE cfgnamespace = 'heal'::regnamespace
        UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictowner, '' FROM pg_ts_dict WHERE dictnamespace = 'heal'::regnamespace
        UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxowner, '' FROM pg_statistic_ext
        WHERE stxnamespace = 'heal'::regnamespace
    ) o CROSS JOIN LATERAL pg_identify_object(o.catalog, o.oid, 0) i LEFT JOIN pg_proc p ON p.oid = o.oid AND o.catalog = 'pg_proc'::regclass
) found
"""

# A role that may do anything with the schema anyway, or has been given it by the migrations.
_TRUSTED = """(
    SELECT r.oid FROM pg_roles r WHERE r.rolsuper OR r.rolname = 'heal_owner'
    UNION ALL SELECT m.member FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE r.rolname = 'heal_owner'
    UNION ALL SELECT d.datdba FROM pg_database d WHERE d.datname = current_database()
    UNION ALL SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'heal')"""

# Code that runs with the rights of whoever reads or writes a table of vectors, such as the owner of a search function.
_CODE = """
WITH calling AS (
    SELECT d.classid, d.objid FROM pg_depend d
    WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND NOT EXISTS (
        SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e')
)
SELECT kind, format('%%s ON heal.%%I', name, c.relname), c.relowner::regrole::text, format(drop, name, format('heal.%%I', c.relname))
FROM (
    SELECT 'trigger' AS kind, tgname AS name, tgrelid AS relid, 'DROP TRIGGER %%I ON %%s' AS drop FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'rule', rulename, ev_class, 'DROP RULE %%I ON %%s' FROM pg_rewrite WHERE rulename <> '_RETURN'
    UNION ALL SELECT 'policy', polname, polrelid, 'DROP POLICY %%I ON %%s' FROM pg_policy
    UNION ALL SELECT 'constraint', conname, conrelid, 'ALTER TABLE %%2$s DROP CONSTRAINT %%1$I' FROM pg_constraint
    WHERE oid IN (SELECT objid FROM calling WHERE classid = 'pg_constraint'::regclass)
    UNION ALL SELECT 'default', a.attname, d.adrelid, 'ALTER TABLE %%2$s ALTER %%1$I DROP DEFAULT'
    FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    WHERE d.oid IN (SELECT objid FROM calling WHERE classid = 'pg_attrdef'::regclass)
    UNION ALL SELECT 'index', i.relname, x.indrelid, 'DROP INDEX heal.%%I' FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
    WHERE i.oid IN (SELECT objid FROM calling WHERE classid = 'pg_class'::regclass)
) code JOIN pg_class c ON c.oid = relid WHERE c.relnamespace = to_regnamespace('heal') AND c.relname ~ %s
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class HealObject:
    """An object in schema heal."""

    kind: str  # as DROP names it
    name: str  # with schema, and arguments of a routine
    owner: str
    drop: str  # statement

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.owner}"


def packaged_sql() -> dict[str, str]:
    """The text of every SQL file of this version, by name."""
    folder = files("heal_tasks.store") / "sql"
    return {item.name: item.read_text("utf-8") for item in folder.iterdir() if item.name.endswith(".sql")}


def made_by(texts: Mapping[str, str]) -> dict[str, str | None]:
    """The tables, views and routines that SQL files make: the types of a routine's arguments by name, None for others."""
    made: dict[str, str | None] = {"schema_migration": None}
    for text in texts.values():
        for found in _CREATE.finditer(text):
            routine = found[1].upper() in ("FUNCTION", "PROCEDURE")
            made[found[2]] = _types(text[found.end() :]) if routine else None
    return made


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
    words = [argument.removeprefix("VARIADIC ").split() for argument in map(str.strip, arguments)]
    return ", ".join(" ".join(word[1:]).split(" DEFAULT ")[0] for word in words if word and word[0] != "OUT")


def strangers(conn: Connection) -> list[HealObject]:
    """Objects whose owner is neither trusted with the schema, nor the pipeline with one of its tables; and code on these."""
    rest = f"{_OBJECTS} WHERE owner_oid NOT IN {_TRUSTED} AND NOT (relkind = 'r' AND short ~ %s) ORDER BY kind, name"
    found = select(conn, HealObject, rest, (VECTOR_TABLE,))  # type: ignore[arg-type]
    return found + [HealObject(*row) for row in conn.execute(_CODE, (VECTOR_TABLE,)).fetchall()]


def unknown_objects(conn: Connection) -> list[HealObject]:
    """Tables, views and routines of trusted owners that no SQL file of this version makes."""
    made = made_by(packaged_sql())
    routines = [f"heal.{name}({types})" for name, types in made.items() if types is not None]
    others = [name for name, types in made.items() if types is None]
    rest = f"""{_OBJECTS} WHERE owner_oid IN {_TRUSTED} AND NOT (relkind = 'r' AND short ~ %s)
        AND kind IN ('table', 'view', 'function', 'procedure', 'aggregate') AND short <> ALL (%s::text[])
        AND NOT EXISTS (SELECT FROM unnest(%s::text[]) r WHERE to_regprocedure(r) = to_regprocedure(name))
        ORDER BY kind, name"""
    return select(conn, HealObject, rest, (VECTOR_TABLE, others, routines))  # type: ignore[arg-type]


def refuse_strangers(conn: Connection) -> None:
    """Raise StoreError if there are any: what a migration owns, it must have made itself."""
    if found := strangers(conn):
        names = "; ".join(map(str, found[:5])) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        drops = "; ".join(item.drop for item in found[:5])
        raise StoreError(
            f"schema heal has objects that no migration made: {names}. They could run with the rights of heal_owner, so "
            f"nothing was migrated. Look at them, then as their owner: {drops}"
        )


def hand_over(conn: Connection, made: Mapping[str, str | None]) -> None:
    """Give the schema and what migrations made to ``heal_owner``, tables of vectors to ``heal_pipeline``; be ``heal_owner``.

    Nothing happens for a user who is no member of ``heal_owner``.
    """
    if not scalar(conn, "SELECT count(*) FROM pg_roles WHERE rolname = 'heal_owner' AND pg_has_role(oid, 'MEMBER')"):
        return
    conn.execute("ALTER SCHEMA heal OWNER TO heal_owner; GRANT USAGE, CREATE ON SCHEMA heal TO heal_pipeline")
    query = f"""SELECT kind, name, owner, short ~ %s AND relkind = 'r' {_OBJECTS}
        WHERE kind IN ('table', 'view', 'function', 'procedure') AND (short = ANY (%s) OR short ~ %s AND relkind = 'r')"""
    for kind, name, owner, vectors in conn.execute(query, (VECTOR_TABLE, [*made], VECTOR_TABLE)).fetchall():  # type: ignore[arg-type]
        wanted = "heal_pipeline" if vectors else "heal_owner"
        if owner != wanted:
            statement = sql.SQL("ALTER {} {} OWNER TO {}")
            conn.execute(statement.format(sql.SQL(kind), sql.SQL(name), sql.Identifier(wanted)))
    conn.execute("SET LOCAL ROLE heal_owner")
