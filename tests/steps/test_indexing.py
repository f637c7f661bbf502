"""The kind of index that a generation gets: by setting, rows, dimensions, metric, and the recall that was measured."""

from dataclasses import replace

import pytest

from heal_tasks.core.errors import StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors import indexing
from heal_tasks.steps.vectors.indexing import EXACT_ROWS, HALFVEC_ROWS, choose_kind
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.indexing import FIRST_OVERSAMPLING, build_indexes
from tests.steps.planted_store import build, fill, hopeless_index, vectors_of
from tests.steps.planted_store import publish as published


@pytest.fixture
def generation(auto: Connection) -> Generation:
    fill(auto, 0)
    return build(auto, "m", 1)


@pytest.fixture
def few_rows_are_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "EXACT_ROWS", 10)


def publish(settings: Settings, generation: Generation, index: str, live: Generation | None = None) -> Manifest:
    refs: dict[str, int | str] = {
        "generation_id": generation.generation_id, "keep_rows": 0, "verdict": "m is promoted.",
        "live_id": live.generation_id if live else 0,
    }  # fmt: skip
    return load_step("publish").run(
        settings.model_copy(update={"index": index}), Manifest(run_id=generation.run_id, refs=refs)
    )


@pytest.mark.parametrize(
    ("wanted", "rows", "dims", "kind"),
    [
        ("auto", EXACT_ROWS, 384, "vector"), ("auto", HALFVEC_ROWS - 1, 2000, "vector"),
        ("auto", HALFVEC_ROWS, 384, "halfvec"), ("auto", EXACT_ROWS, 2001, "halfvec"),
        ("hnsw", 10**6, 2000, "vector"), ("halfvec", EXACT_ROWS, 384, "halfvec"), ("bit", EXACT_ROWS, 4000, "bit"),
        *[(name, EXACT_ROWS - 1, 384, "none") for name in ("auto", "hnsw", "halfvec", "bit")],
    ],
)  # fmt: skip
def test_the_setting_chooses(generation: Generation, wanted: str, rows: int, dims: int, kind: str) -> None:
    assert choose_kind(wanted, rows, replace(generation, dims=dims), measurable=True) == (kind, "")


def test_what_cannot_be_built_is_halfvec_and_said(generation: Generation) -> None:
    for wanted, other, measurable, why in (
        (
            "hnsw",
            replace(generation, dims=3072),
            True,
            "at most 2000 dimensions of 32 bits, and these vectors have 3072",
        ),
        ("bit", replace(generation, metric="inner_product"), True, "the inner product of a NUDGE-M generation"),
        ("bit", generation, False, "without stored questions no recall can be measured"),
    ):
        kind, note = choose_kind(wanted, EXACT_ROWS, other, measurable=measurable)
        assert kind == "halfvec"
        assert note.startswith(f"the index is halfvec instead of {wanted}: ")
        assert why in note


@pytest.mark.usefixtures("few_rows_are_indexed")
def test_bits_are_published_with_the_oversampling_that_was_measured(auto: Connection, settings: Settings) -> None:
    fill(auto)
    made = build(auto, "m", 1)
    result = publish(settings, made, "bit")
    active = GenerationRepository(auto).active()
    assert active is not None
    assert (active.index_kind, active.recall, active.note) == ("bit", 1.0, "")
    assert result.counts["oversampling"] == active.oversampling >= FIRST_OVERSAMPLING
    assert "61 rows indexed (bit) in " in result.note
    assert f"recall@10 1.000 at oversampling {active.oversampling}" in result.note


@pytest.mark.usefixtures("few_rows_are_indexed")
def test_the_next_realignment_builds_the_kind_that_is_set_then(auto: Connection, settings: Settings) -> None:
    fill(auto)
    generations = GenerationRepository(auto)
    for number, (index, kind) in enumerate((("bit", "bit"), ("halfvec", "halfvec"), ("hnsw", "vector")), 1):
        publish(settings, build(auto, f"m{number}", number, f"r{number}"), index, generations.active())
        rows = auto.execute("SELECT index_kind FROM heal.generation_status WHERE state = 'active'").fetchall()
        assert rows == [(kind,)]
        query = vectors_of(1, number)[0]
        found = auto.execute("SELECT generation_id FROM heal.search(%s, %s::bigint)", (query, number)).fetchall()
        assert found == [(number,)] * 10
    generations.activate(2)
    assert len(auto.execute("SELECT * FROM heal.search(%s, 2::bigint)", (query,)).fetchall()) == 10


@pytest.mark.usefixtures("few_rows_are_indexed")
def test_3072_dimensions_are_published_searched_switched_to_and_maintained(
    auto: Connection, settings: Settings
) -> None:
    fill(auto)
    generations = GenerationRepository(auto)
    for number, index, kind in ((1, "auto", "halfvec"), (2, "bit", "bit"), (3, "hnsw", "halfvec")):
        publish(settings, build(auto, "m", number, f"r{number}", dims=3072), index, generations.active())
        active = generations.active()
        assert active is not None
        assert (active.dims, active.index_kind, bool(active.note)) == (3072, kind, index == "hnsw")
        assert active.recall is not None
        assert active.recall >= settings.recall_target
        row = auto.execute("SELECT chunk_id, embedding FROM heal.embedding ORDER BY chunk_id LIMIT 1").fetchall()[0]
        nearest = auto.execute(
            "SELECT chunk_id, distance FROM heal.search(%s, %s::bigint)", (row[1], number)
        ).fetchall()
        assert nearest[0] == (row[0], pytest.approx(0, abs=1e-6))
        assert len(nearest) == len(auto.execute("SELECT chunk_id FROM heal.find('xylophonist')").fetchall()) == 10
    generations.activate(2)
    counts = load_step("maintain").run(settings, Manifest(run_id="m")).counts
    assert min(counts["recall_active"], counts["recall_previous"]) >= settings.recall_target


@pytest.mark.usefixtures("few_rows_are_indexed")
def test_bits_that_miss_the_target_give_way_to_halfvec(auto: Connection, settings: Settings) -> None:
    fill(auto)
    made = build(auto, "m", 1)
    auto.execute(
        "CREATE OR REPLACE FUNCTION heal.recall_against(gen bigint, exact float8[], k int DEFAULT 10) "
        "RETURNS double precision LANGUAGE sql AS 'SELECT CASE g.index_kind WHEN ''bit'' THEN 0.4 ELSE 1 END::float8 "
        "FROM heal.generation g WHERE g.generation_id = gen'"
    )
    result = publish(settings, made, "bit")
    active = GenerationRepository(auto).active()
    assert active is not None
    said = (
        "the index is halfvec instead of bit: with oversampling 200 recall@10 of bits was 0.400, below "
        "HEAL_RECALL_TARGET=0.95"
    )
    assert (active.index_kind, active.oversampling, active.ef_search, active.note) == ("halfvec", 1, 100, said)
    assert said in result.note


@pytest.mark.usefixtures("few_rows_are_indexed")
def test_when_halfvec_misses_the_target_too_nothing_is_published(auto: Connection, settings: Settings) -> None:
    fill(auto)
    made = build(auto, "m", 1)
    hopeless_index(auto)
    with pytest.raises(
        StepError, match=r"no generation is active: Not published: recall@10 0\.400 of the index misses"
    ):
        publish(settings, made, "bit")
    found = GenerationRepository(auto).get(made.generation_id)
    assert (found.state, found.index_kind, found.ef_search) == ("failed", "halfvec", 1000)


def test_maintenance_raises_the_oversampling_and_names_it_where_that_does_not_help(
    auto: Connection, settings: Settings
) -> None:
    fill(auto, 300)
    made, generations = published(auto, "m", 1), GenerationRepository(auto)
    build_indexes(auto, made, memory_mb=64, kind="bit")
    generations.set_fields(made.generation_id, oversampling=1)
    note = load_step("maintain").run(settings, Manifest(run_id="m1")).note
    raised = generations.get(made.generation_id)
    assert raised.oversampling > 1
    assert raised.ef_search == 100
    assert raised.recall is not None
    assert raised.recall >= settings.recall_target
    assert f"recall@10 {raised.recall:.3f} at oversampling {raised.oversampling}" in note
    hopeless_index(auto)
    with pytest.raises(StepError, match=r"is 0\.400 at oversampling 200, .* or realign with HEAL_INDEX=halfvec"):
        load_step("maintain").run(settings, Manifest(run_id="m2"))
