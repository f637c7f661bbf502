"""LangChain and LlamaIndex themselves on 300 rows: the same code reads the table and the view, by another name."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy
from numpy.typing import NDArray

from heal_tasks.core.ids import stable_id
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Split
from heal_tasks.questions.splits import judgment_split
from heal_tasks.report import pictures
from heal_tasks.steps.engine.road import run_pipeline
from heal_tasks.store.db import connect
from heal_tasks.store.questions.questions import QuestionRepository
from tests.fake_embeddings import FakeEmbeddings, planted
from tests.steps.adopting import MODEL, adopt, contents, step

HOW = "its pins exclude this project's; pip install --no-deps -r requirements-clients.txt"
pytest.importorskip("langchain_postgres", reason=HOW)
pytest.importorskip("llama_index.vector_stores.postgres", reason=HOW)

ROWS, ASKED, FORMS, DIMS, K = 300, 60, 8, 32, 5
TEXTS = [f"Part {number} of machine {number % 40} is checked on day {number % 28}." for number in range(ROWS)]
QUESTIONS = {f"who looks after unit {number}, form {form}": number for number in range(ASKED) for form in range(FORMS)}


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """A model for which the questions about a text have something in common that the text has not."""
    rows = planted(texts, DIMS)
    for row, text in zip(rows, texts, strict=True):
        if (number := QUESTIONS.get(text)) is not None:
            common = planted([f"common {number}"], DIMS)[0]
            row[:] = 0.4 * planted([TEXTS[number]], DIMS)[0] + 0.8 * common + 0.5 * row
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


class LangChain:
    """The store of langchain-postgres."""

    rows, before, after = "public.docs", ("docs", "public"), ("served_as_langchain", "heal")

    def __init__(self, url: str) -> None:
        from langchain_postgres import PGEngine

        self.engine = PGEngine.from_connection_string(url.replace("postgresql://", "postgresql+asyncpg://"))

    def open(self, name: str, schema: str) -> Any:
        from langchain_core.embeddings import Embeddings
        from langchain_postgres import PGVectorStore

        class Planted(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [[*map(float, row)] for row in encode(texts)]

            def embed_query(self, text: str) -> list[float]:
                return self.embed_documents([text])[0]

        return PGVectorStore.create_sync(self.engine, Planted(), name, schema_name=schema)

    def fill(self) -> None:
        self.engine.init_vectorstore_table(self.before[0], DIMS)
        self.open(*self.before).add_texts(TEXTS, metadatas=[{"page": number} for number in range(ROWS)])

    def search(self, store: Any, question: str, page: int | None = None) -> list[tuple[str, str, Any]]:
        found = store.similarity_search(question, k=K, filter=None if page is None else {"page": page})
        return [(item.id, item.page_content, item.metadata) for item in found]


class LlamaIndex:
    """The store of llama-index-vector-stores-postgres."""

    rows, before, after = "public.data_docs", ("docs", "public"), ("served_as_llama_index", "heal")

    def __init__(self, url: str) -> None:
        self.url = sqlalchemy.engine.make_url(url)

    def open(self, name: str, schema: str) -> Any:
        from llama_index.vector_stores.postgres import PGVectorStore

        return PGVectorStore.from_params(
            host=self.url.host, port=str(self.url.port), database=self.url.database, user=self.url.username,
            password=self.url.password, table_name=name, schema_name=schema, embed_dim=DIMS,
        )  # fmt: skip

    def fill(self) -> None:
        from llama_index.core.schema import TextNode

        self.open(*self.before).add([
            TextNode(
                text=text, metadata={"page": number}, excluded_embed_metadata_keys=["page"],
                embedding=encode([text])[0].tolist(),
            )
            for number, text in enumerate(TEXTS)
        ])  # fmt: skip

    def search(self, store: Any, question: str, page: int | None = None) -> list[tuple[str, str, Any]]:
        from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

        filters = None if page is None else MetadataFilters(filters=[MetadataFilter(key="page", value=page)])
        query = VectorStoreQuery(query_embedding=encode([question])[0].tolist(), similarity_top_k=K, filters=filters)
        return [(item.node_id, item.text, item.metadata) for item in store.query(query).nodes]


Client = LangChain | LlamaIndex


@pytest.fixture(params=[LangChain, LlamaIndex])
def client(request: pytest.FixtureRequest, database_url: str) -> Client:
    made: Client = request.param(database_url)
    made.fill()
    return made


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Iterator[Settings]:
    with FakeEmbeddings(encode) as server:
        yield load_settings(
            var_dir=tmp_path, database_url=database_url, model=MODEL, embed_base_url=server.base_url,
            topic_depth=1, topic_max_k=2, topic_perturbations=2, questions_per_chunk=1,
        )  # fmt: skip


def test_a_retriever_finds_more_in_the_view_than_in_its_table(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MIN_CHUNKS", ROWS + 1)  # the page goes without the projection, which takes seconds
    table = client.open(*client.before)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        untouched = contents(conn, client.rows)
        made = adopt(settings, client.rows)
        settings = settings.model_copy(update={"sources": (made.adopted.source,)})
        step(settings, "ingest", "r1")
        ids = dict(conn.execute("SELECT body, external_id FROM heal.document").fetchall())
        split: dict[str, Split] = {}
        pairs = [(question, ids[TEXTS[number]]) for question, number in QUESTIONS.items()]

        def split_of(document: int, query: str) -> Split:
            split[query] = judgment_split(document, stable_id(query))
            return split[query]

        QuestionRepository(conn).import_judgments(made.adopted.source, pairs, split_of)
        run_pipeline(settings, "r1")
        view = client.open(*client.after)
        held_out = [question for question, name in split.items() if name == "seen_test"]

        def recall(store: Any) -> float:
            found = [[text for _, text, _ in client.search(store, question)] for question in held_out]
            hits = [TEXTS[QUESTIONS[question]] in texts for question, texts in zip(held_out, found, strict=True)]
            return float(np.mean(hits))

        before, after = recall(table), recall(view)
        assert before < 0.8
        assert after > before + 0.15
        ((nudged,),) = conn.execute("SELECT nudge ->> 'variant' FROM heal.generation WHERE state = 'active'").fetchall()
        assert nudged == "N"
        plain = TEXTS[200]  # nobody has asked about it, so its vector has not moved
        assert client.search(view, plain)[0] == client.search(table, plain)[0]
        assert client.search(view, plain)[0][1:] == (plain, {"page": 200})
        assert [found[2] for found in client.search(view, plain, page=42)] == [{"page": 42}]
        assert contents(conn, client.rows) == untouched
