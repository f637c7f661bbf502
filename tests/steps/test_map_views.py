"""Map views: a share of the training texts is replaced, and a chunk has one form as right document and negative."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.mine import MapViews
from heal_tasks.steps.vectors.training_set import load
from heal_tasks.store.db import Connection, connect
from tests.fake_openai import FakeOpenAI, Reply, Request, completion
from tests.steps.asking import add, ask, map_entities, number, with_llm

DOCUMENTS = 80


def named_queries(request: Request) -> Reply | None:
    """One query that names what the map names, and one that names nothing of it."""
    if request.wants_map:
        return None
    quote = request.passage.split(".")[0]
    name, value = quote.split()[1:3]
    queries = [f"Which {name} {value} holds it with vapour?", "Where might one look for something resisting corrosion?"]
    items = [{"type": "question", "query": text, "answer": "a", "evidence_quote": quote} for text in queries]
    return completion(json.dumps({"items": items}))


def train_rows(made: Manifest) -> list[dict[str, Any]]:
    path = Path(made.text("training_set_uri")) / "train.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_map(text: str) -> bool:
    return text.startswith(("product: ", "event: "))


@pytest.fixture(scope="module")
def asked(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Eighty documents with questions, maps and base vectors; no topics."""
    with connect(module_database_url, autocommit=True) as conn:
        add(conn, range(DOCUMENTS))
    with FakeOpenAI(named_queries) as fake:
        plain = load_settings(var_dir=tmp_path_factory.mktemp("var"), database_url=module_database_url)
        made = with_llm(plain, fake, map_rate=1.0, question_filters="none")
        ask(made)
        map_entities(made)
    load_step("embed_base").run(made, Manifest(run_id="r1"))
    return made


@pytest.fixture
def conn(asked: Settings) -> Iterator[Connection]:
    """A connection to the database that all tests of this module share; what a test changes of the maps is undone."""
    with connect(asked.require_database_url(), autocommit=True) as made:
        made.execute("CREATE TABLE kept AS SELECT * FROM heal.entity_map")
        yield made
        made.execute("DELETE FROM heal.entity_map")
        made.execute("INSERT INTO heal.entity_map SELECT * FROM kept")
        made.execute("DROP TABLE kept")


def mine(settings: Settings, **changes: Any) -> Manifest:
    manifest = Manifest(run_id="r1", refs={"topic_run_id": 0})
    return load_step("mine").run(settings.model_copy(update=changes), manifest)


def test_maps_replace_training_texts_at_the_rate_and_validation_texts_never(conn: Connection, asked: Settings) -> None:
    assert number(conn, "SELECT count(*) FROM heal.entity_map WHERE status = 'ok'") == DOCUMENTS
    plain, all_maps, half = (mine(asked, map_rate=rate) for rate in (0.0, 1.0, 0.5))
    texts = train_rows(plain)
    assert not any(is_map(row["question"]) or is_map(row["document"]) for row in texts)
    assert (plain.counts["map_questions"], plain.counts["map_chunks"]) == (0, 0)

    shown = train_rows(all_maps)
    named = [row["question"].startswith("Which") for row in texts]
    assert [is_map(row["question"]) for row in shown] == named, "a query that names nothing of the map stays a text"
    assert all(is_map(row["document"]) for row in shown)
    assert all(is_map(negative["document"]) for row in shown for negative in row["negatives"])
    assert all_maps.counts["map_questions"] == sum(named)
    assert (
        f"{sum(named)} questions and {all_maps.counts['chunks']} of {all_maps.counts['chunks']} chunks" in all_maps.note
    )

    mixed = train_rows(half)
    assert 0.25 < sum(is_map(row["question"]) for row in mixed) / sum(named) < 0.75
    documents = {row["document_id"]: row["document"] for row in mixed}
    assert 0.25 < sum(map(is_map, documents.values())) / len(documents) < 0.75
    # A chunk has one form wherever it stands, so that the form does not tell which document is right.
    for row in mixed:
        for negative in row["negatives"]:
            assert negative["document"] == documents.get(negative["document_id"], negative["document"])
    negatives = [is_map(negative["document"]) for row in mixed for negative in row["negatives"]]
    assert 0.25 < sum(negatives) / len(negatives) < 0.75
    # Questions are drawn apart from their documents.
    assert {(is_map(row["question"]), is_map(row["document"])) for row in mixed} == {
        (first, second) for first in (True, False) for second in (True, False)
    }

    held_out = [load(Path(made.text("training_set_uri")))[1] for made in (plain, all_maps, half)]
    assert held_out[0].queries
    assert held_out[0].queries == held_out[1].queries == held_out[2].queries
    assert held_out[0].documents == held_out[1].documents == held_out[2].documents
    assert not any(map(is_map, held_out[1].queries + held_out[1].documents))


def test_the_replaced_texts_depend_on_seed_and_rate_alone(conn: Connection, asked: Settings) -> None:
    chunk_ids = [row[0] for row in conn.execute("SELECT chunk_id FROM heal.chunk")]

    def shown(chunks: list[int], **changes: Any) -> set[int]:
        views = MapViews(conn, asked.model_copy(update=changes), chunks)
        found = {chunk_id for chunk_id in chunks if views.document(chunk_id, "text") != "text"}
        assert views.chunks == len(found)
        return found

    third = shown(chunk_ids, map_rate=0.3)
    assert third == shown(chunk_ids[::-1], map_rate=0.3)
    assert third & set(chunk_ids[:40]) == shown(chunk_ids[:40], map_rate=0.3)
    assert third != shown(chunk_ids, map_rate=0.3, seed=14)
    assert third < shown(chunk_ids, map_rate=0.7), "a higher rate only adds"
    assert shown(chunk_ids, map_rate=0.0) == set()
    assert shown(chunk_ids, map_rate=1.0) == set(chunk_ids)


def test_texts_without_a_usable_map_are_not_replaced(conn: Connection, asked: Settings) -> None:
    conn.execute("UPDATE heal.entity_map SET status = 'long' WHERE chunk_id % 2 = 0")
    chunk_ids = [row[0] for row in conn.execute("SELECT chunk_id FROM heal.chunk")]
    views = MapViews(conn, asked, chunk_ids)
    assert all((views.document(chunk_id, "text") == "text") == (chunk_id % 2 == 0) for chunk_id in chunk_ids)
    # Maps by another model are others.
    assert MapViews(conn, asked.model_copy(update={"llm_model": "other"}), chunk_ids).chunks == 0


def test_a_new_map_makes_a_new_training_set(conn: Connection, asked: Settings) -> None:
    with_maps, without = mine(asked, map_rate=1.0), mine(asked, map_rate=0.0)
    conn.execute("DELETE FROM heal.entity_map WHERE chunk_id = (SELECT min(chunk_id) FROM heal.entity_map)")
    assert mine(asked, map_rate=1.0).text("training_set_uri") != with_maps.text("training_set_uri")
    assert mine(asked, map_rate=0.0).text("training_set_uri") == without.text("training_set_uri")


def test_maps_of_the_same_chunks_by_another_model_make_another_training_set(conn: Connection, asked: Settings) -> None:
    own = mine(asked, map_rate=1.0)
    conn.execute("UPDATE heal.entity_map SET model = 'other'")
    other = mine(asked, map_rate=1.0, llm_model="other")
    assert other.counts["map_chunks"] == own.counts["map_chunks"]
    assert other.text("training_set_uri") != own.text("training_set_uri")
