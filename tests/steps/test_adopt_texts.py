"""Rows of adopted tables whose applications embed more than the text: what is sent, compared and listed."""

import numpy as np

from heal_tasks.cli import sources
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.runner import Waiting
from heal_tasks.store.db import Connection
from tests.fake_batches import FakeBatches
from tests.fake_embeddings import FakeEmbeddings, planted
from tests.steps.adopting import TABLES, TEXTS, adopt, fill, following, settings_with, step


def test_a_batch_brings_the_vector_of_the_text_that_a_client_embeds(settings: Settings, auto: Connection) -> None:
    table = TABLES["llama-index"]
    fill(auto, table)
    auto.execute(table.insert, table.row(99, "Without a vector.", None))  # type: ignore[arg-type]
    with FakeEmbeddings(batches=FakeBatches()) as server:
        made = adopt(settings_with(settings, server), "public.data_notes")
        batching = settings_with(settings, server, llm_batch="on", sources=made.adopted.source,
                                 source_roots=made.adopted.source)  # fmt: skip
        step(batching, "ingest", "r1")
        for _ in range(20):
            try:
                step(batching, "embed_base", "r1")
                break
            except Waiting:
                continue
        embedded = "file: f99.md\n\nWithout a vector."
        assert server.paid[embedded] == 1, "by the batch, and not once more"
    ((vector,),) = auto.execute(
        "SELECT b.embedding FROM heal.base_s000001 b JOIN heal.chunk c USING (chunk_id) "
        "WHERE c.text = 'Without a vector.'"
    ).fetchall()
    np.testing.assert_allclose(vector.to_numpy(), planted([embedded])[0], atol=1e-6)


def test_vectors_of_more_than_the_text_are_not_taken_for_another_model(settings: Settings, auto: Connection) -> None:
    auto.execute("CREATE TABLE public.notes (id int PRIMARY KEY, body text, v vector(8))")
    for number, row in enumerate((planted(TEXTS) + 0.1).tolist()):
        auto.execute("INSERT INTO public.notes VALUES (%s, %s, %s)", (number, TEXTS[number], str(row)))
    auto.execute("INSERT INTO public.notes VALUES (99, 'Without a vector.', NULL)")
    with FakeEmbeddings() as server:
        given = settings_with(settings, server)
        made = adopt(given, "public.notes", "id", "body", "v", more_than_text=True)
        given = following(given, made.adopted.source)
        step(given, "ingest", "r1")
        assert step(given, "embed_base", "r1").counts["taken"] == len(TEXTS)
        assert server.paid["Without a vector."] == 1


def test_an_adopted_table_is_tried_like_any_other_source(settings: Settings, auto: Connection) -> None:
    fill(auto, TABLES["langchain"])
    with FakeEmbeddings() as server:
        given = settings_with(settings, server)
        source = adopt(given, "public.My Docs").adopted.source
        assert sources._tried(given, source).startswith("1 files: rows-000000.jsonl")
