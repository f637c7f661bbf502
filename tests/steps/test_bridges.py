"""Query vectors of retired generations: mapped into the live space, measured, answered with a notice or refused."""

import re
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest

from heal_tasks.bridge.fit import LinearMap
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.bridges import BridgeRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.search import NotSearchable, hybrid_search, search
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.conftest import fresh_database
from tests.steps.bridge_world import DOCUMENTS, embed, encoder, fill, publish, strange

ASKED = [f"Where on earth is {number}" for number in range(60)]
Built = tuple[Generation, Generation, Generation]
OLD, NEW, THIRD = encoder("old", 12), encoder("new", 20), encoder("third", 16)


@pytest.fixture(scope="module")
def built(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Documents and questions, and then generations: 1 of an old space is retired, 2 and 3 have the new one."""
    settings = load_settings(var_dir=tmp_path_factory.mktemp("var"), database_url=module_database_url)
    with connect(module_database_url, autocommit=True) as conn:
        fill(conn)
        made = []
        for name, dims, encode in (("old", 12, OLD), ("new", 20, NEW), ("new", 20, NEW)):
            made.append(embed(conn, name, dims, encode))
            publish(conn, settings, made[-1])
    return made[0], made[1], made[2]


@pytest.fixture
def database_url(request: pytest.FixtureRequest, postgres: EmbeddedPostgres, module_database_url: str) -> Iterator[str]:
    """A copy of the database of ``built`` for tests of ``world``, and else an empty one."""
    if "world" in request.fixturenames:
        request.getfixturevalue("built")
        with fresh_database(postgres, module_database_url) as url:
            yield url
    else:
        with fresh_database(postgres) as url:
            yield url


@pytest.fixture
def world(built: Built) -> Built:
    return built


@pytest.fixture
def notices(auto: Connection) -> list[str]:
    heard: list[str] = []
    auto.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    return heard


def recall(conn: Connection, vectors: np.ndarray, generation_id: int) -> float:
    """The share of the asked documents among the ten nearest."""
    texts = [{hit.text for hit in search(conn, vector, generation_id)} for vector in vectors]
    return float(np.mean([f"Of {number}" in near for number, near in enumerate(texts)]))


def test_a_vector_of_a_retired_generation_is_mapped_with_a_notice(
    auto: Connection, world: Built, notices: list[str]
) -> None:
    old, previous, live = world
    native = recall(auto, NEW(ASKED), live.generation_id)
    assert notices == []
    share = recall(auto, OLD(ASKED), old.generation_id) / native
    assert len(notices) == len(ASKED)
    (bridge,) = BridgeRepository(auto).into(live.space_id)
    assert (bridge.from_space, bridge.method, bridge.pairs, bridge.questions) == (1, "fitted", 2 * DOCUMENTS, DOCUMENTS)
    assert bridge.share >= 0.95
    assert share == pytest.approx(bridge.share, abs=0.05)
    assert set(notices) == {
        "generation 1 is retired: the query was mapped to generation 3, where mapped queries keep "
        f"{100 * bridge.share:.1f} % of the recall"
    }
    assert {hit.generation_id for hit in search(auto, OLD(ASKED[:1])[0], 1)} == {live.generation_id}
    notices.clear()
    search(auto, NEW(ASKED[:1])[0], previous.generation_id)
    assert ["is not live any more" in notice for notice in notices] == [True], "its own table answers, as before"


def test_a_mapped_search_shows_what_the_caller_may_read(auto: Connection, world: Built) -> None:
    old, _, live = world
    auto.execute(
        "UPDATE heal.document SET acl = CASE mod(substr(external_id, 2)::int, 3) "
        "WHEN 0 THEN '{ann}' WHEN 1 THEN '{role:heal_reader}' ELSE '{}' END::text[]"
    )
    ids = dict(auto.execute("SELECT document_id, substr(external_id, 2)::int FROM heal.document").fetchall())
    query, native = str(OLD(["Where is 3"])[0].tolist()), str(NEW(["Where is 3"])[0].tolist())
    for third, setting in [(0, "SET LOCAL heal.principals = 'ann'"), (1, "SET LOCAL ROLE heal_reader")]:
        with auto.transaction():
            auto.execute(setting)  # type: ignore[arg-type]
            for search_of in (
                "search(%s::vector, %s::bigint, 200)", "search_many(ARRAY[%s::vector], %s::bigint, 200)",
                "hybrid_search('Of', %s::vector, %s::bigint, 200)",
            ):  # fmt: skip
                rows = auto.execute(
                    f"SELECT document_id FROM heal.{search_of}", (query, old.generation_id)  # type: ignore[arg-type]
                ).fetchall()  # fmt: skip
                assert {ids[key] for (key,) in rows} == {n for n in range(DOCUMENTS) if n % 3 == third}
            (line,) = auto.execute(
                "SELECT heal.explain(%s::vector, %s::bigint)", (query, old.generation_id)
            ).fetchall()[0]
            assert f"{len(range(third, DOCUMENTS, 3))} of {DOCUMENTS} rows pass" in line
            mapped, own = (
                auto.execute("SELECT sum(hits) FROM heal.topic_search(%s::vector, %s::bigint, 100)", values).fetchall()
                for values in ((query, old.generation_id), (native, live.generation_id))
            )
            assert mapped == own


def test_sql_maps_as_the_fit_does(auto: Connection, world: Built) -> None:
    bridges, spaces = BridgeRepository(auto), SpaceRepository(auto)
    (bridge,) = bridges.into(world[2].space_id)
    made = LinearMap(*bridges.load(bridge, spaces.get(bridge.from_space)))
    vectors = OLD(ASKED)
    rows = [auto.execute("SELECT heal.mapped(%s, 1, 2)", (vector,)).fetchall()[0][0].to_numpy() for vector in vectors]
    np.testing.assert_allclose(np.stack(rows), made(vectors), atol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(made.weights @ vectors.T + made.shift[:, None], axis=0).mean(), 1, atol=0.1
    )


def test_every_search_by_vector_maps(auto: Connection, world: Built, notices: list[str]) -> None:
    vector = OLD(ASKED[7:8])[0]
    expected = [hit.chunk_id for hit in search(auto, vector, 1)]
    assert {hit.chunk_id for hit in hybrid_search(auto, "of 7", vector, 1)} & set(expected)
    page = auto.execute("SELECT to_jsonb(s) FROM heal.search(%s, 1, 5) s ORDER BY s.distance", (vector,)).fetchall()
    after = "SELECT s.chunk_id FROM heal.search(%s, 1, 5, after => %s::jsonb) s"
    following = auto.execute(after, (vector, psycopg.types.json.Jsonb(page[-1][0]))).fetchall()
    assert [row[0]["chunk_id"] for row in page] + [row[0] for row in following] == expected
    many = "SELECT chunk_id FROM heal.search_many(ARRAY[%s, %s]::vector[], 1) WHERE query_number = 2"
    assert [row[0] for row in auto.execute(many, (OLD(ASKED[:1])[0], vector)).fetchall()] == expected
    assert "exact" in auto.execute("SELECT * FROM heal.explain(%s, 1)", (vector,)).fetchall()[1][0]
    assert auto.execute("SELECT * FROM heal.topic_search(%s, 1)", (vector,)).fetchall() == []
    assert all("is retired: the query was mapped" in notice for notice in notices)
    auto.execute("SET ROLE heal_reader")
    assert [hit.chunk_id for hit in search(auto, vector, 1)] == expected, "a reader needs no right on the maps"
    auto.execute("RESET ROLE")
    with pytest.raises(psycopg.DatabaseError, match="has 3 dimensions, generation 1 has 12") as caught:
        auto.execute("SELECT * FROM heal.search('[1,2,3]', 1)")
    assert caught.value.sqlstate == "HEA02"
    with pytest.raises(NotSearchable, match=r"generation 9 is not searchable \(unknown\)"):
        search(auto, vector, 9)


def test_a_map_that_keeps_too_little_is_refused_with_its_share(
    auto: Connection, settings: Settings, notices: list[str]
) -> None:
    fill(auto)
    for name, dims, encode in (("old", 12, OLD), ("strange", 20, strange("x", 20)), ("strange", 20, strange("x", 20))):
        publish(auto, settings, embed(auto, name, dims, encode))
    (bridge,) = BridgeRepository(auto).into(2)
    assert 0 < bridge.share < 0.9
    with pytest.raises(NotSearchable) as refused:
        search(auto, OLD(ASKED[:1])[0], 1)
    assert "generation 1 is not searchable (retired) (HEA01). Generation 3 is active; load its encoder" in str(
        refused.value
    )
    said = re.search(r"Mapped, its query vectors would keep ([\d.]+) % of the recall; (.*)", str(refused.value))
    assert said
    assert float(said[1]) == pytest.approx(100 * bridge.share, abs=0.06)
    assert said[2] == "HEAL_BRIDGE_MIN_RECALL asks for 95.0 %."
    load_step("maintain").run(settings.model_copy(update={"bridge_min_recall": 0.0}), Manifest(run_id="m"))
    assert len(search(auto, OLD(ASKED[:1])[0], 1)) == 10
    assert "is retired: the query was mapped to generation 3" in notices[-1]


def test_two_switches_ago_is_fitted_while_the_vectors_are_there_and_composed_after(
    auto: Connection, settings: Settings, world: Built
) -> None:
    bridges = BridgeRepository(auto)
    publish(auto, settings, embed(auto, "third", 16, THIRD))
    direct = {item.from_space: item for item in bridges.into(3)}
    assert {key: item.method for key, item in direct.items()} == {1: "fitted", 2: "fitted"}
    fourth = embed(auto, "fourth", 24, encoder("fourth", 24))
    auto.execute("DROP TABLE heal.base_s000001, heal.question_s000001")
    publish(auto, settings, fourth)
    into = {item.from_space: item for item in bridges.into(4)}
    assert {key: item.method for key, item in into.items()} == {1: "composed", 2: "fitted", 3: "fitted"}
    assert into[1].questions == DOCUMENTS, "measured on the vectors of questions that were kept"
    assert into[1].share > 0.85
    native = recall(auto, encoder("fourth", 24)(ASKED), fourth.generation_id)
    auto.execute("UPDATE heal.bridge SET min_share = .8")
    assert recall(auto, OLD(ASKED), 1) / native == pytest.approx(into[1].share, abs=0.08)


def test_a_rollback_to_another_space_has_its_maps(auto: Connection, settings: Settings) -> None:
    fill(auto)
    for name, dims, encode in (("old", 12, OLD), ("new", 20, NEW), ("third", 16, THIRD)):
        publish(auto, settings, embed(auto, name, dims, encode))
    GenerationRepository(auto).activate(2)
    assert recall(auto, OLD(ASKED), 1) > 0.9, "1 is retired, 2 is live again"
    assert recall(auto, THIRD(ASKED), 3) > 0.9, "the previous generation has its own table"
    publish(auto, settings, embed(auto, "fourth", 16, encoder("fourth", 16)))
    GenerationRepository(auto).activate(2)
    assert recall(auto, THIRD(ASKED), 3) > 0.9, "3 is retired, 2 is live once more"
    assert recall(auto, OLD(ASKED), 1) > 0.9


def test_maps_go_with_the_spaces_and_questions_that_they_belong_to(
    auto: Connection, settings: Settings, world: Built
) -> None:
    def count(table: str) -> int:
        return int(auto.execute(f"SELECT count(*) FROM heal.{table}").fetchall()[0][0])  # type: ignore[arg-type]

    assert count("bridge") == 2, "there and back"
    assert count("bridge_probe") == 2 * DOCUMENTS
    (status,) = auto.execute("SELECT bridge_share FROM heal.generation_status WHERE generation_id = 1").fetchall()
    (bridge,) = BridgeRepository(auto).into(2)
    assert status == (pytest.approx(bridge.share),)
    auto.execute("SELECT heal.delete_document(document_id) FROM heal.document LIMIT 40")
    assert count("bridge_probe") == 2 * (DOCUMENTS - 40)
    load_step("maintain").run(settings.model_copy(update={"drain_hours": 0.0}), Manifest(run_id="m"))
    assert count("bridge") == 1, "no rollback leads to space 1 any more"
    assert count("bridge_probe") == DOCUMENTS - 40
    assert count("bridge_row") == 20
    assert len(search(auto, OLD(ASKED[50:51])[0], 1)) == 10


def test_too_few_test_questions_or_common_texts_make_no_map(auto: Connection, settings: Settings) -> None:
    fill(auto)
    publish(auto, settings, embed(auto, "old", 12, OLD))
    second = embed(auto, "new", 20, NEW)
    auto.execute("UPDATE heal.question SET split = 'train' WHERE question_id % 11 <> 0")
    publish(auto, settings, second)
    assert BridgeRepository(auto).into(2) == []
    auto.execute("UPDATE heal.question SET split = 'seen_test'")
    third = embed(auto, "third", 16, THIRD)
    auto.execute("DELETE FROM heal.base_s000002 WHERE chunk_id NOT IN (SELECT chunk_id FROM heal.chunk LIMIT 20)")
    publish(auto, settings, third)
    assert BridgeRepository(auto).into(3) == []
    with pytest.raises(NotSearchable, match=r"generation 1 is not searchable \(retired\)"):
        search(auto, OLD(ASKED[:1])[0], 1)
