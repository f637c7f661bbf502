"""A language model that does whatever a document commands changes nothing but what is asked about that document."""

import json
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.cli.app import main
from heal_tasks.core.ids import document_id
from heal_tasks.core.settings import Settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.documents import DocumentRepository
from tests.conftest import fresh_database
from tests.fake_openai import FakeOpenAI
from tests.field.injection import ELSEWHERE, honest, obedient, orders, records, rows
from tests.steps.asking import ask, map_entities, with_llm

WRITTEN = {"question", "question_dropped", "chunk_asked", "entity_map", "llm_call"}
"""Tables with what a model has written, by chunk."""


def asked(settings: Settings, url: str, commands: dict[str, Any], rule: Any, var_dir: Path) -> dict[str, Any]:
    """The store after questions and maps were asked for, and the files beside it."""
    var_dir.mkdir(exist_ok=True)
    with connect(url, autocommit=True) as conn, FakeOpenAI(rule) as fake:
        DocumentRepository(conn).apply_records("s", records(commands), lambda title, text: [("", text)])
        own = settings.model_copy(update={"var_dir": var_dir})
        own = with_llm(own, fake, map_rate=1.0, llm_concurrency=1, max_failed=1.0) if False else with_llm(own, fake, map_rate=1.0)
        ask(own)
        map_entities(own)
        roles = conn.execute("SELECT rolname FROM pg_roles ORDER BY 1").fetchall()
        objects = conn.execute(
            "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'heal'::regnamespace ORDER BY 1"
        ).fetchall()
        return {**rows(conn), "roles": roles, "objects": objects}
