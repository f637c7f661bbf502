"""A store with questions that say their chunk, another's, or neither, for the tests of step sift."""

from collections.abc import Iterator

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Question, Split
from heal_tasks.steps import sift as sift_step
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.steps.asking import add

DOCUMENTS = 30
K = 5


@pytest.fixture(autouse=True)
def few_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty documents are too few for the real number of ranks."""
    monkeypatch.setattr(sift_step, "ROUND_TRIP_K", K)


@pytest.fixture(scope="module")
def settings(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(var_dir=tmp_path_factory.mktemp("var"), database_url=module_database_url)


@pytest.fixture(scope="module")
def embedded(settings: Settings) -> Iterator[Connection]:
    """Thirty documents; of each, training questions that say it, that say another's text, and held-out ones."""
    with connect(settings.require_database_url(), autocommit=True) as conn:
        _plant(conn)
        load_step("embed_base").run(settings, Manifest(run_id="r1"))
        yield conn


@pytest.fixture
def asked(embedded: Connection) -> Connection:
    """The same before any question was checked."""
    embedded.execute("DELETE FROM heal.question_dropped")
    embedded.execute("DELETE FROM heal.step_result WHERE step = 'sift'")
    embedded.execute("DELETE FROM heal.generation")
    embedded.execute(
        "UPDATE heal.question SET round_trip_rank = NULL, cross_encoder = NULL, cross_encoder_score = NULL, "
        "dropped_by = NULL"
    )
    return embedded


def generation(conn: Connection) -> Generation:
    """A generation of the base model's space, without tables."""
    (space,) = SpaceRepository(conn).list()
    return GenerationRepository(conn).create(run_id="r1", space=space)


def _plant(conn: Connection) -> None:
    add(conn, range(DOCUMENTS))
    RunRepository(conn).open_run("r1")
    chunks = conn.execute("SELECT chunk_id, text FROM heal.chunk ORDER BY chunk_id").fetchall()
    questions, key = [], 0
    for place, (chunk_id, text) in enumerate(chunks):
        elsewhere, far = (chunks[(place + DOCUMENTS // part) % DOCUMENTS][1] for part in (2, 3))
        for writer, split, said in (
            ("llm", "train", text), ("llm", "train", elsewhere), ("llm", "seen_test", elsewhere),
            ("llm", "unseen_validation", far), ("human", "train", elsewhere),
        ):  # fmt: skip
            key += 1
            questions.append(_question(key, chunk_id, said, writer, split))
    by_chunk = {chunk_id: [item for item in questions if item.chunk_id == chunk_id] for chunk_id, _ in chunks}
    QuestionRepository(conn).store("r1", [Asked(c, "h", "p", "m", found, 0) for c, found in by_chunk.items()], [])


def _question(key: int, chunk_id: int, text: str, writer: str, split: Split) -> Question:
    return Question(
        question_id=key, chunk_id=chunk_id, text=text, answer="a", evidence=text, kind="claim", writer=writer,
        model="m", prompt_hash="p", split=split,
    )  # fmt: skip


def changed(settings: Settings, **changes: object) -> Settings:
    return load_settings(var_dir=settings.var_dir, database_url=settings.require_database_url(), **changes)


def sift(settings: Settings, run_id: str = "r1", **changes: object) -> Manifest:
    with_changes = changed(settings, **changes)
    return load_step("sift").run(with_changes, Manifest(run_id=run_id))


def reasons(conn: Connection) -> dict[int, str | None]:
    return dict(conn.execute("SELECT question_id, dropped_by FROM heal.question ORDER BY 1").fetchall())
