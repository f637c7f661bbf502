"""Thirty nights of one store, in one go: documents come, change, move and go, people click, and things break.

The seed (``--nights-seed``) decides what happens when. After every night the store is compared with plain values of
what its sources hold, and searched with questions whose answers are known. ``make soak`` runs it; the last line says
where the figures are, of which ``bench.nights`` draws docs/nights.svg.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from sentence_transformers import SentenceTransformer

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import connect
from tests.conftest import TEMPLATE
from tests.e2e.conftest import SMALL
from tests.e2e.kill_points import Snapshots
from tests.e2e.nights import checks, people
from tests.e2e.nights.inbox import Inbox
from tests.e2e.nights.night import HEADING, Nights, Row
from tests.fake_openai import FakeOpenAI
from tests.fake_replies import Reply, error

NIGHTS, QUICK_NIGHTS = 30, 9
FIRST_DOCUMENTS, FEWEST, MOST = 110, 104, 126
FIELD_DOCUMENTS = 12
CLICKS = 12
LAYERS = 3
"""Of the other encoder: half of the packaged model's."""
GROWTH, MODEL_MB = 1.5, 75
"""Most that the last ten nights may take of disk and memory, as a multiple of the ten nights before, and the size of a
trained model, which is there in some nights and not in others."""

FAULTS = ("no folder", "no bucket", "empty folder", "LLM errors", "LLM hangs")
FIXED = {
    5: "nothing new",
    8: "new field",
    13: "another model",
    17: "nothing new",
    18: "nothing new",
    22: "first model",
    25: "new field",
}
"""What happens in nights of their own; the others are drawn. The first of two quiet nights may realign for drift."""
DRAWN = (*FAULTS, "kill", "kill", "kill", "crash", "crash", "broken files", "broken files", "rollback", "rollback")


def plan(draw: random.Random) -> dict[int, str]:
    """What happens in each night beside the daily changes; the nights before ``nothing new`` end well."""
    free = [night for night in range(3, NIGHTS + 1) if night not in FIXED and night + 1 not in FIXED]
    return FIXED | dict(zip(draw.sample(free, len(DRAWN)), DRAWN, strict=True))


@pytest.fixture
def other_model(tmp_path: Path) -> str:
    """A smaller encoder, with the first layers of the packaged one."""
    model = SentenceTransformer(resolve_model("all-MiniLM-L6-v2"), device="cpu")
    transformer = model[0].auto_model
    transformer.encoder.layer = transformer.encoder.layer[:LAYERS]
    transformer.config.num_hidden_layers = LAYERS
    model.save(str(tmp_path / "other"))
    return str(tmp_path / "other")


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return boto3.client("s3", endpoint_url=endpoint)


class World:
    """The store, its sources, and who writes, asks and breaks."""

    def __init__(
        self, values: dict[str, Any], server: EmbeddedPostgres, llm: FakeOpenAI, bucket: Any, seed: int
    ) -> None:
        var_dir = Path(values["var_dir"])
        (var_dir / "inbox").mkdir(parents=True)
        self.seed, self.draw, self.llm, self.values = seed, random.Random(seed), llm, values
        material = sample(("sklearn", "networkx", "scipy"), 400, seed=seed)
        self.inbox = Inbox(var_dir / "inbox", bucket, material, self.draw)
        values["sources"] = values["source_roots"] = (self.inbox.files, self.inbox.bucket)
        self.nights = Nights(values, server, var_dir.parent, self.draw, self.inbox.taken_in)
        self.encoders = checks.Encoders(self.nights.settings)
        self.gone: set[str] = set()  # marks of texts that are gone, but may be served until a night has ended well

    def day(self, what: str) -> None:
        """What people do between two nights."""
        if not self.inbox.texts:
            for _ in range(FIRST_DOCUMENTS):
                self.inbox.add()
        elif what != "nothing new":
            with connect(self.values["database_url"], autocommit=True) as conn:
                people.click(conn, self.inbox, self.draw, CLICKS)
            for _ in range(self.draw.randint(2, 6)):
                self._change()
            if what in FAULTS:
                self.inbox.add(kind="row")
            if what == "new field":
                self.inbox.add_field(FIELD_DOCUMENTS)
        if what == "broken files":
            self.inbox.write_broken()
        else:
            self.inbox.write()

    def _change(self) -> None:
        count = len(self.inbox.texts)
        actions = ["add", "change", "change", "move", "copy", "remove", "delete"]
        action = "add" if count < FEWEST else "remove" if count > MOST else self.draw.choice(actions)
        if action in ("remove", "delete"):
            key = self.inbox.remove()
            if action == "delete" and key in self.inbox.stored:
                with connect(self.values["database_url"], autocommit=True) as conn:
                    conn.execute("SELECT heal.delete_document(%s::bigint)", (self.inbox.id_of(key),))
                self.inbox.deleted(key)
        else:
            getattr(self.inbox, action)()

    def night(self, number: int, what: str, other_model: str) -> Row:
        """One day and its night, with what is checked after it."""
        row, said = Row(number, what), list[str]()
        if what == "rollback" and not self.nights.roll_back(f"rollback {number}"):
            said.append("nothing to roll back to")
        if what in ("another model", "first model"):
            self.values["model"] = other_model if what == "another model" else "all-MiniLM-L6-v2"
        before = {text.mark for text in self.inbox.stored.values()} | self.gone
        self.day(what)
        excused = what in FAULTS
        if excused:
            row.route, told = self._troubled(f"night {number}", what)
            if told and self.draw.random() < 0.5:
                said, excused = [*said, *told, "run again"], False
                route, told = self.nights.run(f"night {number}")
                row.route = route or row.route
        else:
            row.route, told = self.nights.run(f"night {number}", what if what in ("kill", "crash") else "")
        said += told
        failed = bool(told) and told[-1].startswith("failed")
        if failed and not excused:
            row.faults.append(told[-1])
        self.nights.upkeep(f"upkeep {number}")
        row.what = "; ".join([what, *(part[:60] for part in said)]) if said else what
        self.gone = before if failed else set()
        self._check(row, whole=not failed)
        return row

    def _troubled(self, run_id: str, what: str) -> tuple[str, list[str]]:
        """A run while something is broken, which is mended afterwards."""
        kept = dict(self.values)
        aside = None
        if what in ("no folder", "empty folder"):
            aside = self.inbox.put_away("folder" if what == "no folder" else "files")
        elif what == "no bucket":
            self.values["s3_endpoint_url"] = "http://127.0.0.1:9"
        else:
            self.values["llm_timeout_s"] = 1.0
            reply = error(500, "out of order") if what == "LLM errors" else Reply({}, fault="hang")
            self.llm.rule = lambda request: reply
        try:
            return self.nights.run(run_id)
        finally:
            self.llm.rule = None
            self.values.clear()
            self.values.update(kept)
            if aside:
                self.inbox.put_back(aside)

    def _check(self, row: Row, *, whole: bool) -> None:
        settings = self.nights.settings
        with connect(self.values["database_url"], autocommit=True) as conn:
            active = checks.live(conn)
            marks = {text.mark for text in self.inbox.stored.values()} | self.gone
            row.faults += checks.documents(conn, self.inbox) + checks.soundness(conn, complete=whole)
            row.faults += checks.marks(conn, settings.var_dir, marks, self.inbox.changed)
            if whole:
                sample_of = [self.draw.randrange(10_000) for _ in range(checks.SAMPLE)]
                row.faults += checks.vectors(conn, self.encoders, active, sample_of)
            found = people.measure(conn, self.encoders, self.inbox, active, settings.model, self.seed + row.night)
            row.base, row.base_low, row.base_high = found.base.value, found.base.low, found.base.high
            row.by_vector, row.by_encoder, row.by_text = found[1:]
            if min(found[1:]) < found.base.low:
                row.faults.append("what is served is worse than the base model")
            row.generation, row.documents = active.generation_id, len(self.inbox.stored)
            row.files_mb, row.database_mb = checks.size_mb(conn, settings.var_dir)
            row.memory_mb, row.connections = checks.memory_mb(), checks.connections(conn)
            if row.connections:
                row.faults.append(f"{row.connections} connections were left open")


@pytest.fixture
def world(
    postgres: EmbeddedPostgres, tmp_path: Path, endpoint: str, bucket: Any, request: pytest.FixtureRequest
) -> Iterator[World]:
    # A connection that is open all the time would not outlive a stop of the server.
    snapshots = Snapshots(postgres, "nights", tmp_path / "var", tmp_path)
    with FakeOpenAI() as llm:
        values: dict[str, Any] = {
            **SMALL, "var_dir": tmp_path / "var", "database_url": snapshots.begin(TEMPLATE),
            "s3_endpoint_url": endpoint, "llm_base_url": llm.base_url, "llm_model": "fake", "llm_concurrency": 4,
            "drain_hours": 0.0, "nudge_max_changed_share": 0.25, "topic_max_churn": 1.0,
        }  # fmt: skip
        yield World(values, postgres, llm, bucket, request.config.getoption("--nights-seed"))
    snapshots.end()


def test_after_every_night_the_documents_are_those_of_the_sources(world: World, soak: bool) -> None:
    """Without what follows the first step, and without faults."""
    for number in range(1, (NIGHTS if soak else QUICK_NIGHTS) + 1):
        world.day("broken files" if number % 4 == 0 else "-")
        load_step("ingest").run(world.nights.settings, Manifest(run_id=f"night {number}"))
        world.inbox.taken_in()
        with connect(world.values["database_url"], autocommit=True) as conn:
            assert checks.documents(conn, world.inbox) == [], f"night {number}"


@pytest.mark.usefixtures("soaking")
def test_thirty_nights(world: World, tmp_path: Path, other_model: str, table: Callable[[str], None]) -> None:
    events, rows = plan(world.draw), list[Row]()
    table(f"seed {world.seed}\n{HEADING}")
    for number in range(1, NIGHTS + 1):
        rows.append(world.night(number, events.get(number, "-"), other_model))
        table(rows[-1].line())
        (tmp_path / "nights.json").write_text(json.dumps([row.as_json() for row in rows]))
    table(f"figures: {tmp_path / 'nights.json'}")
    assert [(row.night, row.faults) for row in rows if row.faults] == []
    assert {row.route for row in rows} >= {"nothing", "nudge", "realign"}
    assert all(any(what in row.what for row in rows) for what in ("killed at", "lost its server at", "failed: "))
    for name in ("files_mb", "database_mb", "memory_mb"):
        late, before = (max(getattr(row, name) for row in rows[first : first + 10]) for first in (20, 10))
        assert late <= GROWTH * before + MODEL_MB * (name == "files_mb"), (
            f"{name}: {before:.0f} in nights 11 to 20, {late:.0f} in the last ten"
        )
