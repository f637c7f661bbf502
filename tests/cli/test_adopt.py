"""The command that adopts a table: what it prints, and tables with odd names and types."""

import pytest
from typer.testing import CliRunner

from heal_tasks.cli.app import app
from heal_tasks.core.errors import InputError
from heal_tasks.core.settings import Settings
from heal_tasks.steps.adopting.presets import Columns, choose_columns, other_columns
from heal_tasks.store.db import Connection
from tests.fake_embeddings import FakeEmbeddings
from tests.steps.adopting import MODEL, TABLES, TEXTS, fill, vector_of


def test_it_prints_what_it_found_and_what_to_set(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(auto, TABLES["langchain"])
    with FakeEmbeddings() as server:
        for name, value in {
            "DATABASE_URL": settings.require_database_url(), "VAR_DIR": str(settings.var_dir),
            "EMBED_BASE_URL": server.base_url, "SOURCES": "file:/data",
        }.items():  # fmt: skip
            monkeypatch.setenv(f"HEAL_{name}", value)
        result = CliRunner().invoke(app, ["adopt", "public.My Docs", "--model", MODEL])
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert lines["table"] == f"public.My Docs (langchain): {len(TEXTS)} rows with text, 8 dimensions"
    assert lines["columns"].endswith("metadata langchain_metadata, and into the metadata topic")
    assert lines["model"] == f"{MODEL}, as named by --model"
    assert lines["checked"] == f"{len(TEXTS)} rows encoded again: lowest cosine 1.0000, median 1.0000"
    assert lines["set"] == f"HEAL_SOURCES='file:/data \"table:public.My Docs\"' HEAL_MODEL={MODEL}"
    assert lines["next"].startswith("python -m heal_tasks plan")


def test_columns_named_by_option_win_and_are_checked() -> None:
    types = {"key": "integer", "content": "text", "emb": "halfvec", "langchain_metadata": "json", "tsv": "tsvector"}
    preset, columns = choose_columns(types, Columns(id="key", vector="emb"), "langchain")
    assert (preset, columns) == ("langchain", Columns("key", "content", "emb", "langchain_metadata"))
    assert other_columns(types | {"year": "integer"}, columns) == ["year"]
    for given, preset, message in (
        (Columns("key", "content", "tsv"), "", "column 'tsv' is of type tsvector; name one of type vector or halfvec"),
        (
            Columns("key", "content", "emb", "content"),
            "",
            "column 'content' is of type text; metadata are json or jsonb",
        ),
        (Columns("key", "words", "emb"), "", "a column is not there: words; of key integer"),
        (Columns("key", "content"), "", "no client's table is recognised; name its columns by --id, --text"),
        (Columns(), "haystack", r"the table has not the columns of haystack \(id, content, embedding, meta\)"),
        (Columns(), "chroma", "there is no preset 'chroma'; presets are langchain, llama-index, pgai, haystack"),
    ):
        with pytest.raises(InputError, match=message):
            choose_columns(types, given, preset)


def test_pgai_names_its_model_and_template(settings: Settings, auto: Connection) -> None:
    from heal_tasks.steps.adopting.adopt import adopt_table

    fill(auto, TABLES["pgai"])
    auto.execute("CREATE SCHEMA ai")
    auto.execute("CREATE TABLE ai.vectorizer (id int, target_schema name, target_table name, config jsonb)")
    config = {
        "embedding": {"implementation": "openai", "model": "planted", "dimensions": 8},
        "formatting": {"template": "Title: $title $chunk"},
    }
    auto.execute("INSERT INTO ai.vectorizer VALUES (1, 'public', 'notes_embedding_store', %s)", (config,))
    with FakeEmbeddings() as server:
        made = adopt_table(
            settings.model_copy(update={"embed_base_url": server.base_url}), "notes_embedding_store", Columns()
        )
    assert (made.adopted.model, made.why_model) == (MODEL, "as pgai's vectorizer says")
    assert "pgai embeds 'Title: $title $chunk', which is more than the chunk" in made.notes[0]


@pytest.mark.parametrize("kind", ["int", "bigint", "text", "uuid", "char(36)"])
@pytest.mark.parametrize("json_type", ["json", "jsonb"])
def test_odd_names_and_types_are_read(settings: Settings, auto: Connection, kind: str, json_type: str) -> None:
    from heal_tasks.store.adopted.user_table import UserTable
    from tests.steps.adopting import adopt, uuid_of

    auto.execute('CREATE SCHEMA "Odd; schema"')
    columns = f'"Row Id" {kind} PRIMARY KEY, "100%" text, "v e c" halfvec(8), "select" {json_type}'
    auto.execute(f'CREATE TABLE "Odd; schema"."t.a%s" ({columns})'.encode())
    keys = [uuid_of(number) if kind in ("uuid", "char(36)") else str(number) for number in range(len(TEXTS))]
    for key, text in zip(keys, TEXTS, strict=True):
        auto.execute(
            'INSERT INTO "Odd; schema"."t.a%%s" VALUES (%s, %s, %s, %s)', (key, text, vector_of(text), '{"a": [1]}')
        )
    with FakeEmbeddings() as server:
        settings = settings.model_copy(update={"embed_base_url": server.base_url, "model": MODEL})
        made = adopt(settings, "Odd; schema.t.a%s", "Row Id", "100%", "v e c", "select", model=MODEL)
    assert made.adopted.source == "table:Odd; schema.t.a%s"
    table = UserTable(auto, made.adopted)
    ids = [key for *_, part in table.parts() for key in part]
    assert sorted(ids) == sorted(keys)
    assert list(table.rows(ids[:1])) == [(ids[0], TEXTS[keys.index(ids[0])], {"a": [1]})]
