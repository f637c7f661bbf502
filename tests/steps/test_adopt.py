"""Adopted tables: documents and vectors come from the tables of real clients' schemas, and nothing is embedded."""

import re
from collections.abc import Iterator

import numpy as np
import pytest

from heal_tasks.core.errors import InputError, SourceError, StepError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.store.adopted.adopted import AdoptedRepository
from heal_tasks.store.db import Connection
from tests.fake_embeddings import FakeEmbeddings, planted
from tests.steps.adopting import (
    MODEL,
    TABLES,
    TEXTS,
    adopt,
    contents,
    documents,
    fill,
    following,
    served,
    settings_with,
    step,
    uuid_of,
    vector_of,
)


@pytest.fixture
def server() -> Iterator[FakeEmbeddings]:
    with FakeEmbeddings() as running:
        yield running


@pytest.fixture
def settings(settings: Settings, server: FakeEmbeddings) -> Settings:
    return settings_with(settings, server)


@pytest.mark.parametrize("client", TABLES)
def test_rows_become_documents_with_their_own_vectors(
    settings: Settings, auto: Connection, server: FakeEmbeddings, client: str
) -> None:
    table = TABLES[client]
    fill(auto, table)
    before = contents(auto, table.name)
    made = adopt(settings, table.name.replace('"', ""), collection="mine" if "older" in client else "")
    assert (made.adopted.preset, made.rows, made.unusable, made.adopted.dims) == (table.preset, len(TEXTS), 0, 8)
    assert "lowest cosine 1.0000, median 1.0000" in made.adopted.checked
    checked = server.paid.total()
    settings = following(settings, made.adopted.source)
    assert step(settings, "ingest", "r1").counts["new"] == len(TEXTS)
    ids = [str(table.row(number, "", "")[0]) for number in range(1, len(TEXTS) + 1)]
    assert documents(auto, made.adopted.source) == {
        key: (text, table.metadata(number + 1)) for number, (key, text) in enumerate(zip(ids, TEXTS, strict=True))
    }
    light = step(settings, "first_light", "r1")
    assert (light.counts["taken"], light.counts["chunks"]) == (len(TEXTS), 0)
    assert server.paid.total() == checked + 1, "one text measures the length of vectors; the table has all others"
    texts = [
        f"file: f{number}.md\n\n{text}" if client == "llama-index" else text for number, text in enumerate(TEXTS, 1)
    ]
    np.testing.assert_allclose(np.stack([served(auto)[key] for key in ids]), planted(texts), atol=1e-6)
    assert contents(auto, table.name) == before


@pytest.fixture
def adopted(settings: Settings, auto: Connection) -> Settings:
    """The settings that follow a table of LangChain's which is adopted and live."""
    fill(auto, TABLES["langchain"])
    made = adopt(settings, "public.My Docs")
    settings = following(settings, made.adopted.source)
    step(settings, "ingest", "r1")
    step(settings, "first_light", "r1")
    return settings


def change(conn: Connection, number: int, text: str, vector_text: str) -> None:
    """Change a row, with the vector of a text; empty for no vector."""
    conn.execute(
        'UPDATE public."My Docs" SET content = %s, embedding = %s WHERE langchain_id = %s',
        (text, vector_of(vector_text), uuid_of(number)),
    )


def night(settings: Settings, conn: Connection, run_id: str) -> tuple[dict[str, int | float], dict[str, int | float]]:
    """What a night's ingest counted, and its embedding."""
    ingested = step(settings, "ingest", run_id).counts
    return dict(ingested), dict(step(settings, "embed_base", run_id).counts)


def vector_in_space(conn: Connection, text: str) -> np.ndarray:
    ((vector,),) = conn.execute(
        "SELECT b.embedding FROM heal.base_s000001 b JOIN heal.chunk c USING (chunk_id) WHERE c.text = %s", (text,)
    ).fetchall()
    return np.asarray(vector.to_numpy())


def test_later_runs_follow_new_changed_and_deleted_rows(
    adopted: Settings, auto: Connection, server: FakeEmbeddings
) -> None:
    paid = server.paid.total()
    ingested, _ = night(adopted, auto, "r2")
    assert (ingested["new"], ingested["changed"], ingested["deleted"]) == (0, 0, 0)
    table = TABLES["langchain"]
    auto.execute(table.insert, table.row(99, "A new text.", vector_of("A new text.")))
    change(auto, 1, "A changed text.", "A changed text.")
    auto.execute(
        'UPDATE public."My Docs" SET langchain_metadata = %s WHERE langchain_id = %s', ('{"page": 77}', uuid_of(2))
    )
    auto.execute('DELETE FROM public."My Docs" WHERE langchain_id = %s', (uuid_of(3),))
    before = contents(auto, table.name)
    ingested, embedded = night(adopted, auto, "r3")
    assert (ingested["new"], ingested["changed"], ingested["deleted"]) == (1, 1, 1)
    assert (embedded["taken"], embedded["chunks"]) == (2, 0)
    assert server.paid.total() == paid
    found = documents(auto, adopted.sources[0])
    assert found[uuid_of(99)][0] == "A new text."
    assert found[uuid_of(2)][1]["page"] == 77
    assert uuid_of(3) not in found
    for text in ("A new text.", "A changed text."):
        np.testing.assert_allclose(vector_in_space(auto, text), planted([text])[0], atol=1e-6)
    assert contents(auto, table.name) == before


def test_a_text_that_changed_before_its_vector_is_embedded_by_the_model(
    adopted: Settings, auto: Connection, server: FakeEmbeddings
) -> None:
    change(auto, 1, "A changed text.", TEXTS[0])
    _, embedded = night(adopted, auto, "r2")
    assert (embedded.get("taken", 0), embedded["chunks"]) == (0, 1)
    assert server.paid["A changed text."] == 1
    np.testing.assert_allclose(vector_in_space(auto, "A changed text."), planted(["A changed text."])[0], atol=1e-6)


def test_vectors_of_another_model_are_refused_by_name(adopted: Settings, auto: Connection) -> None:
    turned = [[*row[1:], row[0]] for row in planted(TEXTS).tolist()]
    for number, row in enumerate(turned, start=1):
        auto.execute('UPDATE public."My Docs" SET embedding = %s WHERE langchain_id = %s', (str(row), uuid_of(number)))
    table = TABLES["langchain"]
    auto.execute(table.insert, table.row(99, "A new text.", vector_of("Another text.")))
    with pytest.raises(StepError, match=r"the vectors of table:public\.My Docs are not those of space 1 any more"):
        night(adopted, auto, "r2")


@pytest.mark.parametrize("vector", [None, str([0.0] * 8), "[1, 2, 3]"], ids=["none", "zero", "another dimension"])
def test_a_row_without_a_usable_vector_is_embedded_by_the_model(
    settings: Settings, auto: Connection, server: FakeEmbeddings, vector: str | None
) -> None:
    table = TABLES["langchain, older"]  # its vectors have no fixed dimension
    fill(auto, table)
    auto.execute(table.insert, table.row(99, "Without a vector.", vector))  # type: ignore[arg-type]
    made = adopt(settings, "langchain_pg_embedding", collection="mine")
    assert made.unusable == 1
    assert "16 rows with text, 8 dimensions; 1 rows have no usable vector and will be embedded" in made.lines()[0]
    settings = following(settings, made.adopted.source)
    step(settings, "ingest", "r1")
    light = step(settings, "first_light", "r1")
    assert (light.counts["taken"], light.counts["chunks"]) == (len(TEXTS), 1)
    assert server.paid["Without a vector."] == 1


def test_rows_are_followed_by_their_time_of_change_where_it_is_named(settings: Settings, auto: Connection) -> None:
    auto.execute("CREATE TABLE public.notes (id int PRIMARY KEY, body text, v vector(8), at timestamptz)")
    for number, text in enumerate(TEXTS):
        auto.execute("INSERT INTO public.notes VALUES (%s, %s, %s, '2026-01-01')", (number, text, vector_of(text)))
    made = adopt(settings, "public.notes", "id", "body", "v", "", "at")
    settings = following(settings, made.adopted.source)
    step(settings, "ingest", "r1")
    auto.execute("UPDATE public.notes SET body = 'Not announced.' WHERE id = 1")
    assert step(settings, "ingest", "r2").counts["changed"] == 0
    auto.execute("UPDATE public.notes SET body = 'Announced.', at = '2026-01-02' WHERE id = 2")
    assert step(settings, "ingest", "r3").counts["changed"] == 2, "the other row of the part has changed, too"


def test_a_role_that_may_only_read_the_table_is_enough(settings: Settings, auto: Connection) -> None:
    fill(auto, TABLES["langchain"])
    auto.execute("CREATE ROLE reader_only LOGIN PASSWORD 'x' IN ROLE heal_owner, heal_pipeline")
    try:
        auto.execute('REVOKE ALL ON public."My Docs" FROM PUBLIC')
        url = re.sub("//[^@]*@", "//reader_only:x@", settings.require_database_url())
        weak = load_settings(
            var_dir=settings.var_dir, database_url=url, model=MODEL, embed_base_url=settings.embed_base_url
        )
        with pytest.raises(InputError, match=r"reader_only may not read public\.My Docs; GRANT SELECT on it"):
            adopt(weak, "public.My Docs")
        auto.execute('GRANT SELECT ON public."My Docs" TO reader_only')
        made = adopt(weak, "public.My Docs")
        weak = following(weak, made.adopted.source)
        step(weak, "ingest", "r1")
        assert step(weak, "first_light", "r1").counts["taken"] == len(TEXTS)
        auto.execute('REVOKE SELECT ON public."My Docs" FROM reader_only')
        with pytest.raises(
            SourceError, match=r'permission denied for table My Docs; GRANT SELECT ON "public"."My Docs"'
        ):
            step(weak, "ingest", "r2")
    finally:
        auto.execute("DROP OWNED BY reader_only")
        auto.execute("DROP ROLE reader_only")


def test_another_model_is_refused_and_more_text_is_taken_when_it_is_said(settings: Settings, auto: Connection) -> None:
    auto.execute("CREATE TABLE public.notes (id int PRIMARY KEY, body text, v vector(8))")
    for number, row in enumerate(planted([f"other {number}" for number in range(20)]).tolist()):
        auto.execute("INSERT INTO public.notes VALUES (%s, %s, %s)", (number, f"text {number}", str(row)))
    with pytest.raises(InputError, match=r"openai:planted has not made the vectors of table:public.notes: 20 rows"):
        adopt(settings, "public.notes", "id", "body", "v", more_than_text=True)
    near = planted([f"text {number}" for number in range(20)]) + 0.1
    for number, row in enumerate(near.tolist()):
        auto.execute("UPDATE public.notes SET v = %s WHERE id = %s", (str(row), number))
    with pytest.raises(InputError, match="give --more-than-text"):
        adopt(settings, "public.notes", "id", "body", "v")
    assert adopt(settings, "public.notes", "id", "body", "v", more_than_text=True).adopted.model_sha256


def test_a_model_that_is_not_reachable_is_checked_by_the_first_run(
    settings: Settings, auto: Connection, server: FakeEmbeddings
) -> None:
    fill(auto, TABLES["langchain"])
    away = settings.model_copy(update={"embed_base_url": None})
    made = adopt(away, "public.My Docs")
    assert made.adopted.checked.startswith(
        "not checked, because the model is not reachable: neither HEAL_EMBED_API_KEY"
    )
    settings = following(settings, made.adopted.source)
    step(settings, "ingest", "r1")
    assert step(settings, "first_light", "r1").counts["taken"] == len(TEXTS)
    (stored,) = AdoptedRepository(auto).list()
    assert stored.model_sha256
    assert stored.checked.startswith("15 rows encoded again: lowest cosine 1.0000")


def test_a_plan_does_not_count_texts_that_have_a_vector(settings: Settings, auto: Connection) -> None:
    fill(auto, TABLES["langchain"])
    made = adopt(settings, "public.My Docs")
    planned = make_plan(following(settings, made.adopted.source))
    assert planned.embeddings is not None
    assert planned.reading.changes.new == len(TEXTS)
    assert planned.embeddings.chunks == len(TEXTS) * settings.questions_per_chunk, "questions alone"


def test_shorter_vectors_need_the_setting_that_asks_for_them(settings: Settings, auto: Connection) -> None:
    auto.execute("CREATE TABLE public.notes (id int PRIMARY KEY, body text, v vector(4))")
    for number, text in enumerate(TEXTS):
        vector = str(planted([text])[0, :4].tolist())
        auto.execute("INSERT INTO public.notes VALUES (%s, %s, %s)", (number, text, vector))
    made = adopt(settings, "public.notes", "id", "body", "v")
    assert made.settings["HEAL_DIMENSIONS"] == "4"
    settings = following(settings, made.adopted.source)
    step(settings, "ingest", "r1")
    with pytest.raises(
        StepError, match=r"vectors of 4 dimensions, and openai:planted gives 8 here; set HEAL_DIMENSIONS=4"
    ):
        step(settings, "first_light", "r1")
    light = step(settings.model_copy(update={"dimensions": 4}), "first_light", "r2")
    assert light.counts["taken"] == len(TEXTS)
