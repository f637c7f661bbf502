"""A language model that does whatever a document commands changes nothing but what is asked about that document."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest

from heal_tasks.cli.app import main
from heal_tasks.core.ids import document_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import connect
from heal_tasks.store.documents.documents import DocumentRepository
from tests.conftest import fresh_database
from tests.fake_openai import FakeOpenAI
from tests.field.injection import ELSEWHERE, EVIDENCE, obedient, orders, records, rows
from tests.serve.published import served
from tests.steps.asking import ask, map_entities, with_llm
from tests.store.sample_store import SampleStore

WRITTEN = {"question", "question_dropped", "chunk_asked", "entity_map", "llm_call"}
"""Tables with what a model has written, by chunk."""
RUNS = {"run", "step_result"}
"""Tables with counts of it."""
OTHER = document_id("s", "good1")


@dataclass
class Attacked:
    """A store that an obedient model has written into, and the rows and files of one with an honest model, too."""

    settings: Settings
    stores: list[dict[str, Any]]
    files: list[set[str]]


def asked(settings: Settings, *, obeys: bool) -> None:
    """Documents, questions and maps of them, a report, and a generation that serves them."""
    with connect(settings.require_database_url(), autocommit=True) as conn:
        DocumentRepository(conn).apply_records("s", records(orders({})), lambda title, text: [("", text)])
        (row,) = conn.execute("SELECT chunk_id FROM heal.chunk WHERE document_id = %s", (OTHER,)).fetchall()
        commands = orders({"chunk_id": row[0], "document_id": OTHER, "id": OTHER, "content_hash": "h"})
        with FakeOpenAI(obedient(commands) if obeys else None) as fake:
            model = with_llm(settings, fake, map_rate=1.0)
            ask(model)
            map_entities(model)
        load_step("report").run(settings, Manifest(run_id="r1"))
        store = SampleStore(conn)
        store.publish(store.generation())


def files(folder: Path) -> set[str]:
    """The paths below a folder, without fingerprints of contents."""
    return {re.sub("[0-9a-f]{16}", "", str(path.relative_to(folder))) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def attacked(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    made = list[tuple[dict[str, Any], set[str]]]()
    with fresh_database(postgres) as honest, fresh_database(postgres) as obedient:
        for url in (honest, obedient):
            settings = load_settings(var_dir=tmp_path_factory.mktemp("var"), database_url=url)
            asked(settings, obeys=url == obedient)
            with connect(url, autocommit=True) as conn:
                made.append((rows(conn), files(settings.var_dir)))
        yield Attacked(settings, [rows for rows, _ in made], [files for _, files in made])


def of_documents(store: dict[str, Any], good: bool) -> dict[str, list[Any]]:
    """The rows of what a model has written about the documents of one sort."""
    wanted = {row["document_id"] for row in store["document"] if row["external_id"].startswith("good") == good}
    chunks = {row["chunk_id"] for row in store["chunk"] if row["document_id"] in wanted}
    found = {name: [row for row in store[name] if row["chunk_id"] in chunks] for name in sorted(WRITTEN)}
    calls = [row | {"call_id": 0, "latency_s": 0} for row in found["llm_call"] if row["content_hash"]]
    return {**found, "llm_call": sorted(calls, key=str)}


def test_only_rows_about_the_documents_that_command_differ(attacked: Attacked) -> None:
    honest, obeyed = attacked.stores
    assert honest.keys() == obeyed.keys()
    kept = {name for name in honest.keys() - WRITTEN - RUNS if honest[name] == obeyed[name]}
    assert kept == honest.keys() - WRITTEN - RUNS, "documents, chunks, spaces, the live generation and all else"
    good = of_documents(honest, True)
    assert len(good["question"]) >= 6 and len(good["entity_map"]) == 6
    assert of_documents(obeyed, True) == good
    assert attacked.files[0] == attacked.files[1]


def test_what_a_model_was_made_to_write_is_about_its_own_document_and_bounded(attacked: Attacked) -> None:
    bad = of_documents(attacked.stores[1], False)
    written = {row["text"] for row in bad["question"] + bad["question_dropped"]}
    for part in ("DROP TABLE heal.document", "<script src", "etc/passwd"):
        assert any(part in text for text in written), "the model has obeyed"
    assert all(
        row["evidence"] == EVIDENCE for row in bad["question"] if row["writer"] == "llm" and "vault" in row["text"]
    )
    assert len(bad["question"]) + len(bad["question_dropped"]) < 50 * len(orders({}))
    assert max(len(json.dumps(row)) for rows_of in bad.values() for row in rows_of) < 100_000
    assert not [text for text in written if re.search("[\x00-\x1f\x7f-\x9f]", text)]


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = list[tuple[str, dict[str, str | None]]](), ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def pages(
    attacked: Attacked, airflow_user: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx2.Client]:
    """The pages of the plugin, for a user who is logged in."""
    import heal_reports

    airflow_user("viewer")
    monkeypatch.setenv("HEAL_VAR_DIR", str(attacked.settings.var_dir))
    monkeypatch.setenv("HEAL_DATABASE_URL", attacked.settings.require_database_url())
    with served(heal_reports.application, lifespan="off") as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("address", ["report?run_id=r1", "runs", "store", "search?q=vault+crimson+ledgers"])
def test_pages_show_it_as_text(pages: httpx2.Client, address: str) -> None:
    answer = pages.get(f"/{address}")
    assert answer.status_code == 200, answer.text
    page = Tags(answer.text)
    if address[:6] in ("report", "search"):
        assert "<script src=" in page.text, "the page has what was written"
    for tag, attributes in page.tags:
        assert (
            tag not in {"img", "iframe", "object", "embed", "base", "meta"} or not {"src", "href"} & attributes.keys()
        )
        assert tag != "script" or "src" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert not [value for value in attributes.values() if value and value.startswith(ELSEWHERE)]
    assert "script-src 'sha256-" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "command",
    [
        ["questions", "--document", "BAD", "--dropped"],
        ["questions", "--dropped"],
        ["search", "sealed vault crimson ledgers"],
        ["search", "sealed vault crimson ledgers", "--json"],
        ["report", "--run-id", "r1"],
        ["status"],
    ],
    ids=" ".join,
)
def test_terminals_get_no_control_character(
    attacked: Attacked, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEAL_VAR_DIR", str(attacked.settings.var_dir))
    monkeypatch.setenv("HEAL_DATABASE_URL", attacked.settings.require_database_url())
    bad = str(document_id("s", "bad-terminal"))
    monkeypatch.setattr(sys, "argv", ["heal_tasks", *(bad if word == "BAD" else word for word in command)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    if "--document" in command or command[0] == "search":
        assert "owned" in out, "the command shows the text"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", out + err)
    if "--json" in command:
        assert "\x1b]0;owned" in json.loads(out.splitlines()[0])["text"], "data is whole"
