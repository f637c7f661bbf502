"""Adopted tables: documents and vectors come from the tables of real clients' schemas, and nothing is embedded."""

from collections.abc import Iterator

import numpy as np
import pytest

from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.store.db import Connection
from tests.fake_embeddings import FakeEmbeddings, planted
from tests.steps.adopting import MODEL, TABLES, TEXTS, adopt, contents, documents, fill, served, step


@pytest.fixture
def server() -> Iterator[FakeEmbeddings]:
    with FakeEmbeddings() as running:
        yield running


@pytest.fixture
def settings(settings: Settings, server: FakeEmbeddings) -> Settings:
    return load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(), model=MODEL,
        embed_base_url=server.base_url,
    )  # fmt: skip


def following(settings: Settings, source: str) -> Settings:
    """The settings that read a source, too."""
    return settings.model_copy(update={"sources": (source,)})


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
