"""Step index: what is promoted finds its neighbours, measured on stored questions; what does not is not promoted."""

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import GenerationRepository
from tests.steps.planted_store import build, fill, hopeless_index


def index(settings: Settings, winner: int) -> Manifest:
    refs: dict[str, int | str] = {"winner": winner, "winner_rows": "nudged"}
    return load_step("index").run(settings, Manifest(run_id="r", refs=refs))


def test_the_winner_is_indexed_and_measured(auto: Connection, settings: Settings) -> None:
    fill(auto)
    made = build(auto, "m", 1)
    result = index(settings, made.generation_id)
    found = GenerationRepository(auto).get(made.generation_id)
    assert (found.state, found.recall, found.ef_search) == ("ready", 1.0, settings.ef_search)
    assert result.number("winner") == made.generation_id
    assert result.counts["recall"] == 1.0


def test_an_index_that_misses_its_target_gets_more_candidates_and_then_no_promotion(
    auto: Connection, settings: Settings
) -> None:
    fill(auto)
    made = build(auto, "m", 1)
    hopeless_index(auto)
    result = index(settings, made.generation_id)
    found = GenerationRepository(auto).get(made.generation_id)
    assert (found.state, found.recall, found.ef_search) == ("building", 0.4, 1000)
    assert result.refs["winner"] == 0
    assert result.refs["verdict"] == ("Not promoted: recall@10 0.400 of the index misses HEAL_RECALL_TARGET=0.95.")
