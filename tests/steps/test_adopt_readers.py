"""Readers of adopted rows: a column of them or a key of the metadata."""

import json
from collections.abc import Iterator

import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.core.settings import Settings
from heal_tasks.store.db import Connection
from tests.fake_embeddings import FakeEmbeddings
from tests.steps.adopting import TEXTS, adopt, following, settings_with, step, vector_of


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    with FakeEmbeddings() as server:
        yield settings_with(settings, server)


@pytest.mark.parametrize(
    ("kind", "value", "readers"),
    [
        ("text[]", "{zed,amy}", ["amy", "zed"]), ("varchar[]", "{}", []), ("integer[]", "{7}", ["7"]),
        ("jsonb", '["zed"]', ["zed"]), ("text", "zed, amy", ["amy", "zed"]), ("text[]", None, None),
    ],
)  # fmt: skip
def test_a_column_of_readers_is_read_whatever_list_it_is(
    settings: Settings, auto: Connection, kind: str, value: str | None, readers: list[str] | None
) -> None:
    auto.execute(f"CREATE TABLE public.mine (id int PRIMARY KEY, body text, v vector(8), acl {kind})")  # type: ignore[arg-type]
    auto.execute("INSERT INTO public.mine VALUES (1, %s, %s, %s)", (TEXTS[0], vector_of(TEXTS[0]), value))
    made = adopt(settings, "public.mine", "id", "body", "v")
    assert made.adopted.other_columns == ["acl"]
    step(following(settings, made.adopted.source), "ingest", "r1")
    assert auto.execute("SELECT acl FROM heal.document").fetchall() == [(readers,)]


def test_a_null_in_the_metadata_hides_no_column_of_readers(settings: Settings, auto: Connection) -> None:
    auto.execute("CREATE TABLE public.mine (id int PRIMARY KEY, body text, v vector(8), acl text[], more jsonb)")
    rows = [(1, None, {"acl": ["meta"]}), (2, ["zed"], {"acl": None}), (3, ["zed"], {"acl": ["meta"]})]
    for number, acl, more in rows:
        values = number, TEXTS[number], vector_of(TEXTS[number]), acl, json.dumps(more)
        auto.execute("INSERT INTO public.mine VALUES (%s, %s, %s, %s, %s)", values)
    made = adopt(settings, "public.mine", "id", "body", "v", "more")
    step(following(settings, made.adopted.source), "ingest", "r1")
    found = auto.execute("SELECT acl FROM heal.document ORDER BY external_id").fetchall()
    assert found == [(["meta"],), (["zed"],), (["meta"],)]


def test_a_column_of_readers_that_is_no_list_is_refused(settings: Settings, auto: Connection) -> None:
    auto.execute("CREATE TABLE public.mine (id int PRIMARY KEY, body text, v vector(8), acl tsvector)")
    auto.execute("INSERT INTO public.mine VALUES (1, %s, %s, 'zed')", (TEXTS[0], vector_of(TEXTS[0])))
    with pytest.raises(InputError, match=r"column 'acl' is of type tsvector; readers are text\[\], json or text"):
        adopt(settings, "public.mine", "id", "body", "v")
