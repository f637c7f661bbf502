"""Who may do what: a reader calls functions and reads views, the pipeline fills and switches, the owner alters."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import psycopg
import pytest
from psycopg import sql

from heal_tasks.core.errors import RetryableError
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.contrast_state import ContrastRepository, ContrastState
from heal_tasks.store.grants import VIEWS, grant_faults
from heal_tasks.store.migrate import migrate
from tests.store.sample_store import SampleStore, encode

_numbers = itertools.count(1)


@pytest.fixture
def login(postgres: EmbeddedPostgres, database_url: str) -> Iterator[dict[str, str]]:
    """URLs of this test's database, as a new user of each role and as one of none."""
    urls, names = {}, []
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        for role in ("heal_owner", "heal_pipeline", "heal_reader", "nobody"):
            name = f"{role}_{next(_numbers)}"
            names.append(name)
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(name)))
            if role != "nobody":
                admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))
            urls[role] = f"postgresql://{name}:x@{database_url.split('@')[1]}"
        yield urls
    with psycopg.connect(database_url, autocommit=True) as admin:
        for name in names:
            admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


@pytest.fixture
def pipeline(login: dict[str, str]) -> Iterator[SampleStore]:
    with connect(login["heal_pipeline"], autocommit=True) as conn:
        yield SampleStore(conn)


def calls(generation: int) -> list[str]:
    return [
        f"SELECT * FROM heal.search('{vector()}', {generation}, 3, filter => '{{}}')",
        f"SELECT * FROM heal.search_many(ARRAY['{vector()}']::vector[], {generation})",
        f"SELECT * FROM heal.hybrid_search('text', '{vector()}', {generation})",
        "SELECT * FROM heal.find('text')",
        "SELECT * FROM heal.find('text', 20, filter => '{}')",
        "SELECT * FROM heal.explain_find('text')",
        f"SELECT heal.query_vector('text'), heal.query_vector('text', {generation})",
        "SELECT * FROM heal.similar((SELECT min(document_id) FROM heal.embedding))",
        "SELECT heal.feedback('text', min(chunk_id), true) FROM heal.embedding",
        "SELECT * FROM heal.embedding",
        "SELECT * FROM heal.generation_status",
        "SELECT * FROM heal.lineage",
        "SELECT * FROM heal.passages",
        f"SELECT * FROM heal.explain('{vector()}', {generation}, filter => '{{}}')",
        f"SELECT * FROM heal.explain('{vector()}', {generation})",
    ]


def vector() -> list[float]:
    return [float(value) for value in encode(["text 1"])[0]]


def test_a_reader_calls_the_api_through_switches_and_reads_no_table(
    pipeline: SampleStore, login: dict[str, str]
) -> None:
    pipeline.load_many(20)
    first = pipeline.generation("m")
    with connect(login["heal_reader"], autocommit=True) as reader:
        for generation in (first, pipeline.generation("m2"), pipeline.generation("m3", dims=8)):
            pipeline.publish(generation)
            for call in calls(generation.generation_id):
                cursor = reader.execute(call)  # type: ignore[arg-type]
                rows, columns = cursor.fetchall(), [column.name for column in cursor.description or []]
                assert rows, call
                if "distance" in columns:
                    number = columns.index("generation_id")
                    assert {row[number] for row in rows} == {generation.generation_id}, call
            reader.execute("SELECT * FROM heal.topics")
            assert (
                reader.execute(
                    "SELECT * FROM heal.topic_search(%s, %s::bigint)", (np.array(vector()), generation.generation_id)
                ).fetchall()
                == []
            )
        pipeline.generations.activate(2, lock_timeout_ms=500)
        assert reader.execute("SELECT DISTINCT generation_id FROM heal.embedding").fetchall() == [(2,)]
        refused = [
            sql.SQL("SELECT * FROM {}").format(sql.Identifier("heal", name))
            for (name,) in pipeline.conn.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace AND relkind = 'r'"
            )
        ]
        assert len(refused) > 20
        refused += [
            sql.SQL(text)
            for text in (
                "CALL heal.activate(1)", "SELECT heal.delete_document(1)", "CALL heal.delete_chunks('{1}')",
                "SELECT heal.recall(1)", "DELETE FROM heal.embedding", "CREATE TABLE heal.mine (x int)",
                "SELECT heal.nearest('[1]', NULL, 1)", "DROP VIEW heal.embedding",
                "SELECT heal.question_stems('text', 2)", "SELECT heal.matching('text', NULL, 1)",
                "CALL heal.plan_searches()",
                "SELECT heal.ranked('text', '[1]', NULL, 1, NULL, NULL, NULL, NULL, 0.1, 50, 20)",
                "SELECT * FROM heal.readable_document",
                "SELECT heal.find_planned('[1]', 2, 'vector', 1, 20, 0.1, NULL, NULL, NULL, NULL)",
            )
        ]  # fmt: skip
        for statement in refused:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)
    with connect(login["nobody"], autocommit=True) as stranger:
        for call in calls(2):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                stranger.execute(call)  # type: ignore[arg-type]


def test_the_pipeline_fills_switches_deletes_and_drops_but_alters_nothing(pipeline: SampleStore) -> None:
    pipeline.load_many(10)
    for model in ("m1", "m2", "m3"):
        made = pipeline.generation(model)
        pipeline.publish(made)
        pipeline.served.upsert_served(made, pipeline.wanted(made))
    pipeline.delete("d3")
    assert [pipeline.served.health(item)["orphans"] for item in pipeline.generations.list()] == [0, 0, 0]
    assert pipeline.generations.retire_old(0) == [1]
    for statement in (
        "DROP TABLE heal.document", "ALTER TABLE heal.chunk ADD x int", "UPDATE heal.schema_migration SET name = ''",
        "CREATE OR REPLACE VIEW heal.embedding AS SELECT 1", "DROP FUNCTION heal.similar", "TRUNCATE heal.chunk",
        "ALTER FUNCTION heal.recall OWNER TO CURRENT_USER",
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            pipeline.conn.execute(statement)  # type: ignore[arg-type]


def test_definers_have_a_fixed_path_without_schemas_of_the_caller(auto: Connection) -> None:
    rows = auto.execute(
        "SELECT proname, proconfig, prosecdef, proowner::regrole::text FROM pg_proc "
        "WHERE pronamespace = 'heal'::regnamespace"
    ).fetchall()
    definers = {name: config for name, config, definer, _ in rows if definer}
    assert definers.keys() == {
        "search", "search_many", "similar", "find", "query_vector", "explain_find", "hybrid_search", "topic_search",
        "explain", "activate", "feedback", "serves_adopted_model", "principals", "permitted", "may_read", "guard_views",
    }  # fmt: skip
    assert {tuple(config) for config in definers.values()} == {("search_path=pg_catalog, public, pg_temp",)}
    assert {owner for *_, owner in rows} == {"heal_owner"}


def test_a_callers_path_cannot_replace_what_a_definer_calls(pipeline: SampleStore, login: dict[str, str]) -> None:
    pipeline.load_many(5)
    pipeline.publish(pipeline.generation("m"))
    with connect(login["heal_reader"], autocommit=True) as reader:
        (before,) = reader.execute(calls(1)[0]).fetchall()[:1]  # type: ignore[arg-type]
        reader.execute("CREATE TEMP TABLE chunk (chunk_id bigint, document_id bigint, text text)")
        reader.execute("CREATE FUNCTION pg_temp.vector_dims(public.vector) RETURNS int LANGUAGE sql AS 'SELECT 1 / 0'")
        reader.execute(
            "CREATE FUNCTION pg_temp.cosine(public.vector, public.vector) RETURNS float8 "
            "LANGUAGE sql AS 'SELECT 9.0::float8'"
        )
        reader.execute(
            "CREATE OPERATOR pg_temp.<=> (LEFTARG = public.vector, RIGHTARG = public.vector, FUNCTION = pg_temp.cosine)"
        )
        reader.execute("SET search_path = pg_temp, heal, public")
        assert reader.execute(calls(1)[0]).fetchall()[0] == before  # type: ignore[arg-type]


def test_views_of_a_reader_show_neither_rejected_input_nor_replies(
    pipeline: SampleStore, login: dict[str, str]
) -> None:
    pipeline.load_many(3)
    pipeline.publish(pipeline.generation("m"))
    pipeline.delete("d1")
    pipeline.conn.execute(
        "INSERT INTO heal.quarantine (run_id, source, path, line, reason, raw) "
        "VALUES ('r', 's', 'a', 1, 'no title', 'hidden input')"
    )
    pipeline.conn.execute(
        "INSERT INTO heal.llm_call (run_id, purpose, model, prompt_hash, content_hash, status, raw_reply, cost_usd) "
        "VALUES ('r', 'questions', 'm', 'h', 'h', 'failed', 'hidden reply', 0.5)"
    )
    pipeline.conn.execute("INSERT INTO heal.run (run_id, route) VALUES ('r', 'nudge')")
    pipeline.conn.execute(
        "INSERT INTO heal.evaluation (run_id, generation_id, system, question_set, metric, value, questions) "
        "SELECT 'r', 1, 'live', s, 'ndcg@10', v, 9 "
        "FROM (VALUES ('seen', 0.1), ('seen, by text', 0.3), ('seen', 0.2)) t (s, v)"
    )
    with connect(login["heal_reader"], autocommit=True) as reader:
        shown = {view: reader.execute(f"SELECT * FROM heal.{view}".encode()).fetchall() for view in VIEWS}
        assert "hidden" not in str(shown)
        assert {view for view, rows in shown.items() if not rows} == {"topics"}
        assert len(shown["passages"]) == 2
        assert reader.execute(
            "SELECT question_set, path, value FROM heal.quality WHERE latest ORDER BY value"
        ).fetchall() == [("seen", "encoder", 0.2), ("seen", "text", 0.3)]
        assert reader.execute("SELECT cost_usd FROM heal.runs").fetchall() == [(0.5,)]
        assert reader.execute("SELECT calls, useless_calls, cost_usd FROM heal.costs").fetchall() == [(1, 1, 0.5)]
        assert reader.execute("SELECT source, reason, mended_at FROM heal.quarantined").fetchall() == [
            ("s", "no title", None)
        ]


def test_a_reader_of_one_corpus_cannot_reach_another_on_the_server(
    postgres: EmbeddedPostgres, database_url: str, login: dict[str, str]
) -> None:
    ours = database_url.rsplit("/", 1)[1]
    other = postgres.ensure_database("another_corpus")
    with connect(other, autocommit=True) as theirs, connect(database_url, autocommit=True) as conn:
        migrate(theirs)
        name = login["heal_reader"].split("//")[1].split(":")[0]
        away = login["heal_reader"].replace(f"/{ours}", "/another_corpus")
        with connect(away) as strayed:
            strayed.execute("SELECT * FROM heal.passages")
        (found,) = [text for text in grant_faults(theirs) if text.startswith("heal_reader has rights in")]
        assert f", {ours}" in found
        assert "REVOKE CONNECT ON DATABASE another_corpus FROM PUBLIC" in found
        theirs.execute("REVOKE CONNECT ON DATABASE another_corpus FROM PUBLIC")
        assert [text for text in grant_faults(theirs) if "CONNECT" in text] == []
        with pytest.raises(RetryableError, match='permission denied for database "another_corpus"'):
            connect(away)
        conn.execute(f"REVOKE CONNECT ON DATABASE {ours} FROM PUBLIC".encode())
        conn.execute(f"GRANT CONNECT ON DATABASE {ours} TO {name}".encode())
        with connect(login["heal_reader"]) as reader:
            reader.execute("SELECT * FROM heal.passages")
        # Granted to the role, it would be granted to the readers of all databases.
        theirs.execute("GRANT CONNECT ON DATABASE another_corpus TO heal_reader")
        (found,) = [text for text in grant_faults(theirs) if "CONNECT" in text]
        assert "REVOKE CONNECT ON DATABASE another_corpus FROM heal_reader" in found
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("DROP DATABASE another_corpus")


def test_a_database_made_before_the_roles_is_handed_over(postgres: EmbeddedPostgres, database_url: str) -> None:
    with connect(database_url, autocommit=True) as conn:
        store = SampleStore(conn)
        store.load_many(5)
        made = store.generation("m", nudge={"contrast_steps": 5})
        store.publish(made)
        chunk_ids, vectors = store.spaces.load_chunks(store.space_of(made))
        state = replace(ContrastState.empty(made.dims), chunk_ids=chunk_ids, vectors=vectors)
        ContrastRepository(conn).write(made, state)
        assert conn.execute(
            "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'push_g000001'"
        ).fetchone() == ("heal_pipeline",)
        for kind, name in (
            ("TABLE", "document"),
            ("TABLE", "vec_g000001"),
            ("TABLE", "lex_g000001"),
            ("TABLE", "push_g000001"),
            ("TABLE", "base_s000001"),
            ("VIEW", "embedding"),
            ("FUNCTION", "recall"),
        ):
            conn.execute(f"ALTER {kind} heal.{name} OWNER TO CURRENT_USER")  # type: ignore[arg-type]
        assert migrate(conn) == []
        owners = dict(
            conn.execute("SELECT relname, relowner::regrole::text FROM pg_class WHERE relkind IN ('r', 'v') "
                         "AND relnamespace = 'heal'::regnamespace").fetchall()
        )  # fmt: skip
        assert {name for name, owner in owners.items() if owner == "heal_pipeline"} == {
            "base_s000001", "question_s000001", "vec_g000001", "lex_g000001", "push_g000001"
        }  # fmt: skip
        assert set(owners.values()) == {"heal_pipeline", "heal_owner"}
        assert conn.execute("SELECT current_user = session_user").fetchone() == (True,)


@pytest.mark.parametrize("user", ["lonely", "Lonely-App@example.org"])
def test_an_owner_of_a_database_who_may_make_no_roles_goes_without(postgres: EmbeddedPostgres, user: str) -> None:
    role = sql.Identifier(user)
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(role))
        admin.execute(sql.SQL("CREATE DATABASE lonely OWNER {}").format(role))
    try:
        with psycopg.connect(postgres.url("lonely"), autocommit=True) as admin:
            admin.execute("CREATE EXTENSION vector")
        with connect(f"postgresql://{quote(user)}:x@{postgres.url('lonely').split('@')[1]}", autocommit=True) as conn:
            migrate(conn)
            assert migrate(conn) == []
            store = SampleStore(conn)
            store.load_many(5)
            store.publish(store.generation("m"))
            assert conn.execute(calls(1)[0]).fetchall()  # type: ignore[arg-type]
            owner = conn.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'vec_g000001'").fetchone()
            assert owner == (user,)
    finally:
        with psycopg.connect(postgres.url(), autocommit=True) as admin:
            admin.execute("DROP DATABASE lonely WITH (FORCE)")
            admin.execute(sql.SQL("DROP ROLE {}").format(role))
