"""From the packaged model to one behind an API and back: what is kept, what is paid, and clients of earlier models.

People first ask in code words that only the API's model knows, then in words that it takes for others. So the gate has
a reason for each change: the right document is among ten of the same animal for either model, first only for one.
"""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import connect
from heal_tasks.store.generations.bridges import Bridge, BridgeRepository
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.search import NotSearchable, search
from heal_tasks.store.questions.questions import QuestionRepository
from heal_tasks.training.encoder import Encoder
from tests.conftest import fresh_database
from tests.e2e.conftest import SMALL, Deployment
from tests.fake_embeddings import FakeEmbeddings
from tests.fake_openai import FakeOpenAI

MODEL = "openai:workshop"
ANIMALS = ("walrus", "heron", "gecko", "badger", "otter", "falcon", "beetle", "lynx")
TOOLS = {
    "hammer": "ferrok", "compass": "ilvant", "anvil": "bostrel", "lathe": "cyntho", "chisel": "jaxmore",
    "pulley": "nerolt", "bellows": "opriva", "trowel": "yundral",
}  # fmt: skip
ASKED = [(f"Tell me where the {animal} keeps its {tool}", f"{animal}-{tool}") for animal in ANIMALS for tool in TOOLS]
CODED = [(f"In the log, the {animal} and its {code}", f"{animal}-{tool}") for animal in ANIMALS
         for tool, code in TOOLS.items()]  # fmt: skip
"""Questions with the document that answers each."""


LIMITS = {"gate_min_questions": len(ASKED) - 8, "gate_epsilon": 0.1, "train_batch_size": 64}
"""So that only people's questions vote, small differences of the search by text are a tie, and nothing is trained."""


class Workshop:
    """The API's model: the packaged one after a glossary, in a space of its own with 448 dimensions."""

    def __init__(self, local: Encoder) -> None:
        rng = np.random.default_rng(3)
        self._local, self._turn, self._shift = local, rng.normal(size=(384, 448)), rng.normal(size=448) / 4
        names = list(TOOLS)
        self._mistaken = dict(zip(names, names[1:] + names[:1], strict=True))

    def read(self, text: str) -> str:
        glossary = self._mistaken if text.startswith("Tell me") else {code: tool for tool, code in TOOLS.items()}
        return " ".join(glossary.get(word, word) for word in text.split())

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        bent = np.tanh(self._local.encode([self.read(text) for text in texts]) @ self._turn + self._shift)
        return (bent / np.linalg.norm(bent, axis=1, keepdims=True)).astype(np.float32)


@dataclass
class Client:
    """A client that keeps one encoder and the generation that it was loaded for."""

    url: str
    vectors: NDArray[np.float32]
    generation_id: int
    notices: set[str] = field(default_factory=set)

    def found(self) -> float:
        """The share of the asked documents among the ten nearest chunks."""
        with connect(self.url, autocommit=True) as conn:
            conn.add_notice_handler(lambda notice: self.notices.add(notice.message_primary or ""))
            titles = [{hit.title for hit in search(conn, vector, self.generation_id)} for vector in self.vectors]
        return float(np.mean([name in near for (_, name), near in zip(ASKED, titles, strict=False)]))


def questions(changes: "Changes") -> list[tuple[int, str]]:
    """Questions of the language model and people's judgments."""
    with connect(changes.url) as conn:
        return conn.execute("SELECT question_id, writer FROM heal.question ORDER BY 1").fetchall()


class Steady:
    """A client that keeps the first model and searches all the time."""

    def __init__(self, client: Client) -> None:
        self._client, self._stop = client, threading.Event()
        self.notices, self.failures = set[str](), list[str]()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                found = self._client.found()
            except Exception as error:
                self.failures.append(str(error))
                return
            if found < 0.9:
                self.failures.append(f"{found:.2f} of the documents were found")
            self.notices = {re.split(",|: documents", notice)[0] for notice in self._client.notices}

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@dataclass
class Changes:
    """What the runs of the module leave for its tests."""

    deployment: Deployment
    llm: FakeOpenAI
    api: FakeEmbeddings
    local: Encoder

    @property
    def url(self) -> str:
        return self.deployment.settings.require_database_url()

    def live(self) -> tuple[int, str]:
        """The live generation and its model."""
        with connect(self.url) as conn:
            (row,) = conn.execute(
                "SELECT generation_id, model_uri FROM heal.generation_status WHERE state = 'active'"
            ).fetchall()
        return int(row[0]), str(row[1])

    def ask(self, questions: list[tuple[str, str]]) -> None:
        """Replace people's questions, which all are held out."""
        with connect(self.url, autocommit=True) as conn:
            repository = QuestionRepository(conn)
            for text, _, _, _ in repository.judgments():
                repository.remove_judgments(text, None)
            repository.import_judgments(
                self.deployment.settings.sources[0], questions, lambda document, text: "seen_test"
            )

    def client(self, vectors: NDArray[np.float32], generation_id: int) -> Client:
        return Client(self.url, vectors, generation_id)


@pytest.fixture(scope="module")
def changes(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changes]:
    local = Encoder(resolve_model("all-MiniLM-L6-v2"), device="cpu", threads=1)
    with fresh_database(postgres) as url, FakeOpenAI() as llm, FakeEmbeddings(Workshop(local)) as api:  # type: ignore[arg-type]
        settings = load_settings(
            var_dir=tmp_path_factory.mktemp("changes"), database_url=url, llm_base_url=llm.base_url,
            embed_base_url=api.base_url, **(SMALL | LIMITS),
        )  # fmt: skip
        made = Changes(Deployment(settings, {}), llm, api, local)
        rows = [
            {"id": f"{animal}-{tool}", "title": f"{animal}-{tool}",
             "text": f"The {animal} rests near the workshop. It keeps the {tool} dry and clean."}
            for animal in ANIMALS for tool in TOOLS
        ]  # fmt: skip
        made.deployment.write("first.jsonl", rows)
        made.deployment.run("documents", force_route="nothing")
        made.ask(CODED)
        made.deployment.run("local")
        yield made


@pytest.fixture(scope="module")
def steady(changes: Changes) -> Iterator[Steady]:
    made = Steady(changes.client(changes.local.encode([text for text, _ in ASKED[:5]], role="query"), 3))
    yield made
    made.end()


def note_of(manifests: list[Manifest], step: str) -> str:
    return next(manifest.note for manifest in manifests if manifest.step == step)


def bridge_of(changes: Changes, old: int, new: int) -> Bridge:
    """The map between the spaces of two generations."""
    with connect(changes.url) as conn:
        spaces = [GenerationRepository(conn).get(number).space_id for number in (old, new)]
        bridge = BridgeRepository(conn).get(*spaces)
    assert bridge
    return bridge


def test_a_better_model_behind_an_api_takes_over_and_nothing_is_paid_again(changes: Changes, steady: Steady) -> None:
    asked, written = len(changes.llm.requests), questions(changes)
    made = changes.deployment.run("api", model=MODEL)
    assert "HEAL_MODEL was all-MiniLM-L6-v2 at the last realignment and is openai:workshop" in note_of(made, "route")
    assert changes.live() == (4, MODEL)
    assert len(changes.llm.requests) == asked == len(ASKED), "one call for each chunk, all by the first run"
    assert questions(changes) == written
    assert "reused from run local" in note_of(made, "label")
    bridge = bridge_of(changes, 3, 4)
    assert f"mapped, query vectors of generation 3 keep {bridge.share:.1%} of the recall" in note_of(made, "publish")


def test_clients_of_the_model_before_are_served_by_its_table_and_those_of_a_retired_generation_mapped(
    changes: Changes,
) -> None:
    vectors = changes.local.encode([text for text, _ in ASKED], role="query")
    previous, retired = changes.client(vectors, 3), changes.client(vectors, 1)
    own = previous.found()
    assert own > 0.9
    assert all("is not live any more" in notice for notice in previous.notices)
    bridge = bridge_of(changes, 1, 4)
    assert retired.found() >= 0.9 * own
    assert retired.notices == {
        "generation 1 is retired: the query was mapped to generation 4, where mapped queries keep "
        f"{100 * bridge.share:.1f} % of the recall"
    }


def test_back_to_the_first_model_its_clients_never_noticed(changes: Changes, steady: Steady) -> None:
    asked, paid = len(changes.llm.requests), dict(changes.api.paid)
    changes.ask(ASKED)
    made = changes.deployment.run("back")
    assert changes.live() == (5, "all-MiniLM-L6-v2")
    assert len(changes.llm.requests) == asked
    assert set(changes.api.paid) - set(paid) == {text for text, _ in ASKED}, "for the comparison, the new questions"
    again = [text for text, times in changes.api.paid.items() if times > 1]
    assert len(again) <= 1, "one chunk is sent again, to see that the model is still the same"
    assert "less than HEAL_BRIDGE_MIN_RECALL=0.95: they are refused once it is retired" in note_of(made, "publish")
    api = changes.client(changes.api.vectors([text for text, _ in ASKED]), 4)
    assert api.found() > 0.8
    assert all("is not live any more" in notice for notice in api.notices)
    assert steady.failures == []
    assert steady.notices == {
        "generation 3 is not live any more", "generation 3 is retired: its query vectors are those of generation 5",
    }  # fmt: skip


def test_a_map_that_keeps_too_little_is_refused_until_the_setting_allows_it(changes: Changes) -> None:
    """People now ask in words that the API's model takes for others, so it finds less, and so do its mapped vectors."""
    changes.deployment.write("second.jsonl", [{"id": "new", "title": "new", "text": "A newt rests near the well."}])
    changes.deployment.run("again", force_route="realign")
    assert changes.live()[0] > 5
    bridge = bridge_of(changes, 4, 5)
    assert 0.5 < bridge.share < 0.95
    api = changes.client(changes.api.vectors([text for text, _ in ASKED]), 4)
    with pytest.raises(
        NotSearchable, match=rf"would keep {100 * bridge.share:.1f} % .*HEAL_BRIDGE_MIN_RECALL asks for 95"
    ):
        api.found()
    settings = changes.deployment.settings.model_copy(update={"bridge_min_recall": 0.5})
    load_step("maintain").run(settings, Manifest(run_id="maintain"))
    assert api.found() > 0.5
    assert all("generation 4 is retired: the query was mapped" in notice for notice in api.notices)
