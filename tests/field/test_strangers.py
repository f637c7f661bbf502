"""Objects in schema heal that no migration made are refused, and never given to the owner of the schema."""

import psycopg
import pytest

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.migrate import migrate
from heal_tasks.store.ownership import made_by, packaged_sql, strangers, unknown_objects
from tests.store.sample_store import SampleStore

EVIL = "CREATE FUNCTION heal.evil() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'"
TRIGGER = "CREATE FUNCTION heal.evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'"
VECTOR = "CREATE FUNCTION heal.evil(vector) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'"
ANY_SQL = "ts_rewrite('a', 'VALUES (tsquery ''a'', tsquery ''b'')')"


@pytest.mark.parametrize(
    ("statements", "named", "drop"),
    [
        ([EVIL], "function heal.evil() of field", "DROP FUNCTION heal.evil()"),
        (
            ["CREATE PROCEDURE heal.evil() LANGUAGE sql AS 'SELECT 1'"],
            "procedure heal.evil()",
            "DROP PROCEDURE heal.evil()",
        ),
        (
            ["CREATE FUNCTION heal.find(question varchar) RETURNS int LANGUAGE sql AS 'SELECT 1'"],
            "function heal.find(character varying)",
            "DROP FUNCTION heal.find(",
        ),
        (["CREATE TABLE heal.mine (x int)"], "table heal.mine", "DROP TABLE heal.mine"),
        (["CREATE VIEW heal.vec_g000099 AS SELECT 1"], "view heal.vec_g000099", "DROP VIEW heal.vec_g000099"),
        (
            ["CREATE MATERIALIZED VIEW heal.mine AS SELECT 1"],
            "materialized view heal.mine",
            "DROP MATERIALIZED VIEW heal.mine",
        ),
        (["CREATE SEQUENCE heal.mine"], "sequence heal.mine", "DROP SEQUENCE heal.mine"),
        (["CREATE TYPE heal.mine AS (x int)"], "type heal.mine", "DROP TYPE heal.mine"),
        (["CREATE TYPE heal.mine AS ENUM ('x')"], "type heal.mine", "DROP TYPE heal.mine"),
        (["CREATE DOMAIN heal.mine AS int"], "type heal.mine", "DROP TYPE heal.mine"),
        (
            ["CREATE OPERATOR heal.<#> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)"],
            "operator heal.<#>",
            "DROP OPERATOR",
        ),
        (['CREATE COLLATION heal.mine FROM "C"'], "collation heal.mine", "DROP COLLATION heal.mine"),
        (
            ["CREATE TEXT SEARCH CONFIGURATION heal.mine (COPY = simple)"],
            "text search configuration heal.mine",
            "DROP TEXT SEARCH",
        ),
        (
            ["CREATE AGGREGATE heal.mine(int) (SFUNC = int4pl, STYPE = int)"],
            "aggregate heal.mine(integer)",
            "DROP AGGREGATE",
        ),
    ],
    ids=lambda value: None,
)
def test_an_object_of_the_pipeline_is_refused_until_it_is_dropped(
    auto: Connection, login: dict[str, str], statements: list[str], named: str, drop: str
) -> None:
    with connect(login["heal_pipeline"], autocommit=True) as pipeline:
        for statement in statements:
            pipeline.execute(statement.encode())
        with pytest.raises(StoreError, match="objects that no migration made") as raised:
            migrate(auto)
        assert named in str(raised.value)
        assert drop in str(raised.value)
        owners = auto.execute("SELECT proowner::regrole::text FROM pg_proc WHERE proname IN ('evil')").fetchall()
        assert ("heal_owner",) not in owners
        (found,) = strangers(auto)
        pipeline.execute(found.drop.encode())
    assert migrate(auto) == []


@pytest.mark.parametrize(
    "statements",
    [
        [TRIGGER, "CREATE TRIGGER t BEFORE DELETE ON heal.{table} FOR EACH ROW EXECUTE FUNCTION heal.evil()"],
        ["CREATE RULE r AS ON DELETE TO heal.{table} DO INSTEAD NOTHING"],
        [
            "ALTER TABLE heal.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE POLICY p ON heal.{table} USING (true)",
        ],
        [VECTOR, "ALTER TABLE heal.{table} ADD CONSTRAINT c CHECK (heal.evil(embedding))"],
        [VECTOR, "CREATE INDEX i ON heal.{table} ((heal.evil(embedding)))"],
        [f"ALTER TABLE heal.{{table}} ADD CONSTRAINT c CHECK ({ANY_SQL} IS NOT NULL)"],
        [EVIL, "ALTER TABLE heal.{table} ADD d text DEFAULT heal.evil()"],
        [f"ALTER TABLE heal.{{table}} ADD d tsquery DEFAULT {ANY_SQL}"],
        ["CREATE DOMAIN heal.mine AS int CHECK (VALUE > 0)", "ALTER TABLE heal.{table} ADD d heal.mine"],
        ["CREATE TABLE heal.vec_g999999 () INHERITS (heal.{table})"],
    ],
    ids=[
        "trigger",
        "rule",
        "policy",
        "constraint",
        "index",
        "any-constraint",
        "default",
        "any-default",
        "column",
        "child",
    ],
)
@pytest.mark.parametrize("table", ["vec_g000001", "base_s000001"])
def test_code_on_a_table_of_vectors_is_refused(
    auto: Connection, login: dict[str, str], statements: list[str], table: str, request: pytest.FixtureRequest
) -> None:
    kind = request.node.callspec.id.rpartition("-")[2]
    store = SampleStore(auto)
    store.load_many(5)
    store.publish(store.generation("m"))
    assert migrate(auto) == []
    with connect(login["heal_pipeline"], autocommit=True) as pipeline:
        pipeline.execute("SET search_path = public")
        for statement in statements:
            pipeline.execute(statement.replace("{table}", table).encode())
        with pytest.raises(StoreError, match=f"{kind} [\\w.]+ ON heal.{table} of heal_pipeline"):
            migrate(auto)
        code = [item for item in strangers(auto) if item.kind == kind]
        others = [item for item in strangers(auto) if item.kind != kind]
        for item in [*code, *others]:
            pipeline.execute(item.drop.encode())
    assert strangers(auto) == []


def test_what_a_superuser_made_is_left_to_him(auto: Connection) -> None:
    auto.execute(
        "CREATE FUNCTION heal.by_hand() RETURNS int LANGUAGE sql AS 'SELECT 1'; "
        "CREATE VIEW heal.my_view AS SELECT 1 AS x"
    )
    assert migrate(auto) == []
    owners = auto.execute(
        "SELECT proowner::regrole = current_user::regrole FROM pg_proc WHERE proname = 'by_hand'"
    ).fetchall()
    assert owners == [(True,)]
    assert [item.name for item in unknown_objects(auto)] == ["heal.by_hand()", "heal.my_view"]
    auto.execute("CREATE FUNCTION heal.search(text) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    assert "heal.search(pg_catalog.text)" in [item.name for item in unknown_objects(auto)]


def test_the_packaged_files_name_every_object_that_they_make(auto: Connection) -> None:
    assert strangers(auto) == unknown_objects(auto) == []
    made = made_by(packaged_sql())
    found = auto.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace AND relkind IN ('r', 'v') "
        "UNION SELECT proname FROM pg_proc WHERE pronamespace = 'heal'::regnamespace"
    ).fetchall()
    named = {*made["tables"], *(name.partition("(")[0].removeprefix("heal.") for name in made["routines"])}
    assert {name for (name,) in found} <= named


def test_a_user_named_like_the_schema_does_not_call_what_the_pipeline_made_there(
    auto: Connection, login: dict[str, str]
) -> None:
    """A migration whose search path begins with schema heal runs with a path of the system's schemas."""
    assert auto.execute("SELECT current_user").fetchone() == ("heal",)
    with psycopg.connect(auto.info.dsn, password=auto.info.password, autocommit=True) as conn:
        conn.execute("""SET search_path = "$user", public""")  # the default of other servers
        seen: list[str] = []
        conn.add_notice_handler(lambda notice: seen.append(notice.message_primary or ""))
        conn.execute("UPDATE heal.schema_migration SET sha256 = 'x' WHERE name = 'api.sql'")
        conn.execute(
            "CREATE FUNCTION heal.notice_path() RETURNS event_trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE NOTICE 'path %', current_setting('search_path'); END $$; "
            "CREATE EVENT TRIGGER path ON ddl_command_end EXECUTE FUNCTION heal.notice_path()"
        )
        assert migrate(conn) == ["api.sql"]
        conn.execute("DROP EVENT TRIGGER path")
        paths = {text for text in seen if text.startswith("path ")}
        assert "path pg_catalog, public, pg_temp" in paths
        assert conn.execute("SHOW search_path").fetchone() == ('"$user", public',)
