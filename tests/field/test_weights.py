"""A rejection weighs as much as the records that it loses."""

import json

import pytest

from heal_tasks.core.errors import SourceError
from heal_tasks.core.settings import Settings
from heal_tasks.store.db import Connection
from tests.field.inbox import column, ingest, names, put_all


def rows(number: int) -> str:
    return "".join(json.dumps({"id": str(place), "text": f"text {place}"}) + "\n" for place in range(number))


def test_a_table_that_cannot_be_decoded_counts_as_its_lines(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"big.json": rows(1000).encode() + b"\xff", **{f"{n}.txt": f"t {n}" for n in range(30)}})
    with pytest.raises(SourceError, match=r"10\d\d of 10\d\d records were rejected, .* first: big\.json line 0"):
        ingest(settings)
    assert names(auto) == []


def test_a_table_that_gave_documents_weighs_at_least_as_many(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"big.jsonl": rows(100), "a.txt": "a", "b.txt": "b"})
    ingest(settings)
    put_all(settings, {"big.jsonl": ""})
    with pytest.raises(SourceError, match=r"100 of 102 records were rejected"):
        ingest(settings)
    lenient = settings.model_copy(update={"max_rejected_share": 1.0})
    assert ingest(lenient).counts["rejected"] == 100
    assert column(auto, "SELECT records FROM heal.quarantine") == [100]
    assert len(names(auto)) == 102


@pytest.mark.parametrize(
    "table",
    [
        "name,text\n" + "1,a\n" * 500,  # no column id
        'id,text\n1,"a\n' + "2,b\n" * 500,  # a quote that is never closed
        ("id,text\n" + "1,a\n" * 500).encode() + b"\xff",
    ],
)
def test_a_table_that_is_rejected_as_a_whole_counts_as_its_rows(
    settings: Settings, auto: Connection, table: str | bytes
) -> None:
    put_all(settings, {"a.csv": table, **{f"{n}.txt": f"t {n}" for n in range(30)}})
    with pytest.raises(SourceError, match=r"50\d of 53\d records were rejected.*nothing was stored.*a\.csv line \d"):
        ingest(settings)
    assert column(auto, "SELECT sum(records) >= 500 FROM heal.quarantine WHERE mended_at IS NULL") == [True]
    assert names(auto) == []


def test_documents_and_single_rows_weigh_one(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.jsonl": '{"id": 1}\n' + rows(60), "empty.txt": "", "late.txt": b"\xff\xfe\x00"})
    assert ingest(settings).counts["rejected"] == 3
    assert column(auto, "SELECT records FROM heal.quarantine") == [1, 1, 1]
