"""The largest record that the parsers accept can be stored: title, id, metadata and words within Postgres' limits."""

import json
import random

from heal_tasks.core.types import Record
from heal_tasks.sources.records import MAX_TITLE_CHARS
from heal_tasks.store.db import connect
from heal_tasks.store.documents.documents import DocumentRepository
from tests.sources.parsing import accepted


def test_the_largest_record_is_stored(database_url: str) -> None:
    letters = random.Random(0)

    def word(length: int) -> str:
        return "".join(chr(letters.randrange(0x4E00, 0x9FFF)) for _ in range(length))

    value = {
        "id": word(340),
        "title": word(5000),
        "text": f"{word(4000)} {'x' * 3000} end",
        "long": word(10_000),
        "many": [word(10) for _ in range(3000)],
    }
    record = accepted("x.jsonl", json.dumps(value, ensure_ascii=False))
    assert isinstance(record, Record)
    assert len(record.title) == MAX_TITLE_CHARS
    with connect(database_url, autocommit=True) as conn:
        DocumentRepository(conn).apply_records("file:/inbox", [record], lambda title, body: [("", body)])
        row = conn.execute("SELECT external_id, title, metadata FROM heal.document").fetchone()
    assert row == (record.external_id, record.title, record.metadata)
