from collections.abc import Iterator
from typing import NamedTuple

import httpx2
import openai
import pytest

from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.store.db import Connection, connect
from tests.serve.published import Published, add_documents, publish, running, turned_model, wait_until_ready


class Running(NamedTuple):
    """The service, with its documents served by generation 1 (another encoder, of 48 dimensions) and then by 2."""

    url: str
    conn: Connection
    first: Published
    second: Published

    @property
    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=30)

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def module_settings(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Settings:
    return load_settings(var_dir=tmp_path_factory.mktemp("var"), database_url=module_database_url)


@pytest.fixture(scope="module")
def service(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with connect(module_settings.require_database_url(), autocommit=True) as conn:
        add_documents(conn)
        other = turned_model(tmp_path_factory.mktemp("model") / "cut", module_settings, 48)
        first = publish(conn, other, lexicon_weight=1.0)
        second = publish(conn, module_settings.model, lexicon_weight=0.5)
        with running(module_settings) as url:
            wait_until_ready(url)
            yield Running(url, conn, first, second)
