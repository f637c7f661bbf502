"""Rights in schema heal beyond those that ``rights.sql`` grants, and roles that can do more than their purpose."""

from collections.abc import Sequence
from typing import LiteralString

from heal_tasks.store.db import Connection

# Each row is a sentence with its cure. Rights are read from access lists, so that those of PUBLIC and of other roles
# are found, too; what a superuser may do is in no list.
_FAULTS: LiteralString = """
WITH ours AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname IN ('heal_owner', 'heal_pipeline', 'heal_reader')
), member AS (
    WITH RECURSIVE found AS (
        SELECT oid AS role, oid AS member FROM ours
        UNION SELECT f.role, m.member FROM found f JOIN pg_auth_members m ON m.roleid = f.member
    )
    SELECT o.rolname AS role, r.* FROM found f JOIN ours o ON o.oid = f.role JOIN pg_roles r ON r.oid = f.member
), acl AS (
    SELECT 'TABLE' AS kind, c.oid::regclass::text AS name, c.relname AS short, c.relowner AS owner, a.*
    FROM pg_class c, aclexplode(c.relacl) a
    WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p', 'f')
    UNION ALL
    SELECT 'TABLE', c.oid::regclass::text, c.relname, c.relowner, a.* FROM pg_class c
    JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a WHERE c.relnamespace = 'heal'::regnamespace
    UNION ALL
    SELECT 'ROUTINE', p.oid::regprocedure::text, p.proname, p.proowner, a.*
    FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    WHERE p.pronamespace = 'heal'::regnamespace
    UNION ALL
    SELECT 'SCHEMA', n.nspname, n.nspname, n.nspowner, a.* FROM pg_namespace n, aclexplode(n.nspacl) a
    WHERE n.nspname = 'heal'
), beyond AS (
    SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS who, a.privilege_type,
           a.name, a.kind
    FROM acl a
    WHERE a.grantee <> a.owner AND a.grantee NOT IN (SELECT oid FROM ours WHERE rolname <> 'heal_reader')
        AND NOT (a.kind = 'TABLE' AND a.short = ANY (%(views)s) AND a.privilege_type = 'SELECT')
        AND NOT (a.kind = 'TABLE' AND a.privilege_type = 'SELECT' AND a.short IN (
            SELECT relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace AND relrowsecurity))
        AND NOT (a.kind = 'ROUTINE' AND a.short = ANY (%(routines)s)
                 AND (a.grantee <> 0 OR a.short IN ('permitted', 'may_read')))
        AND NOT (a.kind = 'SCHEMA' AND a.privilege_type = 'USAGE')
)
SELECT format('role %%s has %%s; ALTER ROLE %%s %%s', rolname, what, rolname, cure) FROM (
    SELECT r.rolname, f.* FROM ours o JOIN pg_roles r USING (oid) CROSS JOIN LATERAL (VALUES
        (r.rolsuper, 'SUPERUSER', 'NOSUPERUSER'), (r.rolcreaterole, 'CREATEROLE', 'NOCREATEROLE'),
        (r.rolcreatedb, 'CREATEDB', 'NOCREATEDB'), (r.rolreplication, 'REPLICATION', 'NOREPLICATION'),
        (r.rolbypassrls, 'BYPASSRLS', 'NOBYPASSRLS'), (r.rolcanlogin, 'LOGIN', 'NOLOGIN')) AS f (is_set, what, cure)
) attribute WHERE is_set
UNION ALL
SELECT format('role %%1$s is a member of %%2$s; REVOKE %%2$s FROM %%1$s', o.rolname, m.roleid::regrole)
FROM pg_auth_members m JOIN ours o ON o.oid = m.member
WHERE NOT (o.rolname = 'heal_owner' AND m.roleid = to_regrole('heal_pipeline'))
UNION ALL
-- Members of the owner may do everything in the schema; one of them has run the migration.
SELECT DISTINCT format('%%I, a member of %%s, is a superuser, may make roles, bypass policies or replicate; '
                       'let it log in as an ordinary user', rolname, role)
FROM member WHERE role <> 'heal_owner' AND (rolsuper OR rolcreaterole OR rolbypassrls OR rolreplication)
    AND rolname NOT IN (SELECT m.rolname FROM member m WHERE m.role = 'heal_owner')
UNION ALL
SELECT DISTINCT format('%%I, a member of %%s, is a member of %%s; REVOKE %%s FROM %%I',
                       m.rolname, m.role, a.roleid::regrole, a.roleid::regrole, m.rolname)
FROM member m JOIN pg_auth_members a ON a.member = m.oid JOIN pg_roles p ON p.oid = a.roleid
WHERE p.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files', 'pg_write_all_data',
                    'pg_read_all_data')
UNION ALL
SELECT format('%%s has %%s on %%s; REVOKE ALL ON %%s %%s FROM %%s', who,
              string_agg(privilege_type, ', ' ORDER BY privilege_type), name, kind, name, who)
FROM beyond GROUP BY who, name, kind
UNION ALL
SELECT format('%%s may create objects in schema %%I, where pgvector is, and so change what the search functions call; '
              'REVOKE CREATE ON SCHEMA %%I FROM %%s', who, n.nspname, n.nspname, who)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
CROSS JOIN (SELECT 'public' AS who UNION ALL SELECT rolname FROM ours WHERE rolname <> 'heal_owner') w
WHERE e.extname = 'vector' AND has_schema_privilege(w.who, n.oid, 'CREATE')
    AND (w.who = 'public' OR NOT has_schema_privilege('public', n.oid, 'CREATE'))
UNION ALL
SELECT format('%%s runs with the rights of its owner and has no search path of its own; '
              'run `python -m heal_tasks migrate`', p.oid::regprocedure)
FROM pg_proc p WHERE p.pronamespace = 'heal'::regnamespace AND p.prosecdef
    AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=%%')
ORDER BY 1
"""

# Roles belong to the server: their members reach every database to which they may connect.
_ELSEWHERE: LiteralString = """
SELECT o.rolname, format('REVOKE CONNECT ON DATABASE %%1$I FROM %%2$s; GRANT CONNECT ON DATABASE %%1$I TO each user '
                         'of this one', current_database(),
                         CASE WHEN has_database_privilege('public', current_database(), 'CONNECT') THEN 'PUBLIC'
                         ELSE o.rolname END),
       string_agg(DISTINCT d.datname, ', ' ORDER BY d.datname)
FROM pg_roles o JOIN pg_shdepend s ON s.refclassid = 'pg_authid'::regclass AND s.refobjid = o.oid
JOIN pg_database d ON d.oid = s.dbid
WHERE o.rolname IN ('heal_pipeline', 'heal_reader') AND d.datname <> current_database() AND d.datallowconn
    AND has_database_privilege(o.oid, current_database(), 'CONNECT') AND (d.datname = ANY (%(own)s)) = %(ours)s
GROUP BY o.oid, o.rolname ORDER BY 1
"""

VIEWS = [
    "embedding",
    "passages",
    "topics",
    "generation_status",
    "lineage",
    "quality",
    "runs",
    "quarantined",
    "costs",
    "served_as_langchain",
    "data_served_as_llama_index",
]
ROUTINES = [
    "search",
    "search_many",
    "similar",
    "find",
    "query_vector",
    "explain_find",
    "hybrid_search",
    "topic_search",
    "explain",
    "vector_table",
    "feedback",
    "serves_adopted_model",
    "permitted",
    "may_read",
]
"""Views and functions for readers; ``rights.sql`` grants them."""


def grant_faults(conn: Connection, own: Sequence[str] = ()) -> list[str]:
    """A sentence with its cure for each right, attribute or membership too many.

    ``own`` are names of databases of the same deployment on this server, whose users may connect.
    """
    with conn.transaction():
        conn.execute("SET LOCAL search_path = pg_catalog")  # so that every name is shown with its schema
        faults = [row[0] for row in conn.execute(_FAULTS, {"views": VIEWS, "routines": ROUTINES}).fetchall()]
    others = conn.execute(_ELSEWHERE, {"own": [*own], "ours": False}).fetchall()
    return faults + [
        f"{role} has rights in {names}, too, and its members there may connect to this database; {cure}"
        for role, cure, names in others
    ]


def shared_roles(conn: Connection, own: Sequence[str]) -> list[str]:
    """A sentence for each role that has rights in other databases of the same deployment, whose names are ``own``."""
    return [
        f"{role} has rights in {names}, too, which this project made on the same server, and its members there may "
        f"connect to this database; to keep readers apart: {cure}"
        for role, cure, names in conn.execute(_ELSEWHERE, {"own": [*own], "ours": True}).fetchall()
    ]
