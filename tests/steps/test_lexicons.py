"""Lexicons of generations: choose records how one is fitted, publish writes it, heal.find ranks as scoring does."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.ranking import top_k
from heal_tasks.lexicon.record import LEXICON_WEIGHT, WORDS_WEIGHT, LexiconRecord
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.quality.scoring import BY_TEXT, CHUNKS_WITH_WORDS, SEEN, UNSEEN
from heal_tasks.steps.vectors import lexicons
from heal_tasks.steps.vectors.systems import lexicon_record_of
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.runs.runs import RunRepository
from tests.steps.lexicon_world import DOCUMENTS, LexiconWorld


@pytest.fixture(scope="module")
def built(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> LexiconWorld:
    """Held-out questions about all documents, none that moves a row; the encoder alone finds few of the answers."""
    with LexiconWorld.opened(module_database_url, tmp_path_factory.mktemp("var")) as made:
        made.ask_of_all("unseen_test")
        made.ask_of_all("seen_test")
    return made


@pytest.fixture
def world(built: LexiconWorld, postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[LexiconWorld]:
    with built.copied(postgres, tmp_path) as made:
        yield made


def winner(world: LexiconWorld, chosen: Manifest) -> Generation:
    return world.generations.get(chosen.number("generation_id"))


def test_the_winner_has_a_lexicon_record_and_no_table(world: LexiconWorld) -> None:
    chosen = world.choose()
    assert chosen.text("best_system") == "base model + lexicon"
    made = winner(world, chosen)
    record = lexicon_record_of(made)
    assert record is not None
    assert (record.chunks, record.by_people, record.question_weight) == (DOCUMENTS, False, 0)
    assert (record.lexicon_weight, record.words_weight) == (LEXICON_WEIGHT, WORDS_WEIGHT)
    exists = world.conn.execute("SELECT to_regclass('heal.' || heal.vector_table(%s, 'lex'))", (made.generation_id,))
    assert exists.fetchall() == [(None,)]
    assert world.conn.execute("SELECT relname FROM pg_class WHERE relname ~ '^lex_g'").fetchall() == []
    rows = [row for row in RunRepository(world.conn).evaluations("r1") if row.metric == "ndcg@10"]
    assert {(row.system, row.question_set) for row in rows} == {
        ("base model", UNSEEN), ("base model", SEEN), ("base model + lexicon", UNSEEN), ("base model + lexicon", SEEN),
        ("base model + lexicon", UNSEEN + BY_TEXT), ("base model + lexicon", SEEN + BY_TEXT),
    }  # fmt: skip
    # A system without lexicon is no candidate, only measured.
    assert "base model:" not in chosen.text("verdict")


def test_relevance_rises_with_the_score_on_both_query_paths(world: LexiconWorld) -> None:
    world.go_live()
    assert world.record.relevance.keys() == {"encoder", "text"}
    for curve in world.record.relevance.values():
        assert len(curve["scores"]) == len(curve["shares"]) > 5
        assert (np.diff(curve["scores"]) > 0).all()
        assert (np.diff(curve["shares"]) >= 0).all()
        assert curve["shares"][0] < 0.1
        assert curve["shares"][-1] > 0.6
    rows = world.conn.execute("SELECT relevance, score FROM heal.find(%s)", (world.texts["d3"],)).fetchall()
    curve = world.record.relevance["text"]
    expected = np.interp([score for _, score in rows], curve["scores"], curve["shares"])
    np.testing.assert_allclose([share for share, _ in rows], expected, atol=1e-6)


def test_sql_ranks_held_out_questions_as_they_were_scored(world: LexiconWorld) -> None:
    before = world.choose()
    scored = world.systems().of_generation("chosen", winner(world, before))
    world.publish(before)
    systems = world.systems()
    questions = Corpus(world.conn).question_texts(systems.questions.question_ids)
    texts = [questions[key] for key in systems.questions.question_ids.tolist()]
    stored, search = systems.live(), scored.lexical
    assert search is not None
    assert stored.lexical is not None
    np.testing.assert_allclose(world.query_vectors(texts), search.vectors, atol=2e-3)  # halfvec has eleven bits
    np.testing.assert_allclose(stored.lexical.vectors, search.vectors, atol=2e-3)
    rows = np.arange(len(texts))
    near, _ = top_k(search.vectors, scored.chunks, CHUNKS_WITH_WORDS)
    ranked, scores = search.add_words(near, search.vectors, rows, scored.chunks)
    by_sql = [world.conn.execute("SELECT chunk_id, score FROM heal.find(%s, 10)", (text,)).fetchall() for text in texts]
    wanted, found = systems.chunks.chunk_ids[ranked[:, :10]], np.array([[key for key, _ in hits] for hits in by_sql])
    assert (found == wanted).mean() > 0.97
    shared = [len(np.intersect1d(*pair)) for pair in zip(found, wanted, strict=True)]
    assert np.mean(shared) > 9.9
    np.testing.assert_allclose([hits[0][1] for hits in by_sql], scores[:, 0], atol=3e-3)


def test_publish_writes_the_lexicon_before_the_switch_and_finishes_what_was_killed(
    world: LexiconWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = world.go_live()
    world.add({"late": "w1x w2x w3x lateword"})
    chosen = world.choose("r2")
    written: list[Any] = []

    def killed(self: GenerationRepository, generation_id: int) -> None:
        written.append(world.lexicons.load(self.get(generation_id)))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GenerationRepository, "activate", killed)
        with pytest.raises(KeyboardInterrupt):
            world.publish(chosen)
    assert ("english", "lateword") in written[0].stems
    assert world.active == live
    assert world.find("lateword") == []
    world.publish(chosen)
    assert world.active.generation_id == chosen.number("generation_id") != live.generation_id
    assert world.find("lateword")[0] == world.chunk("late").chunk_id
    again = world.lexicon()
    assert again.stems == written[0].stems
    np.testing.assert_array_equal(again.vectors, written[0].vectors)
    np.testing.assert_array_equal(again.chunks, written[0].chunks)
    assert world.record.chunks == DOCUMENTS + 1


def test_rows_that_stay_keep_their_lexicon_record_and_new_chunks_join_its_table(world: LexiconWorld) -> None:
    world.go_live()
    record = world.record
    world.add({"late": "w1x w2x w3x lateword"})
    chosen = world.choose("r2", gate_min_questions=1000)
    assert chosen.number("keep_rows") == 1
    kept = LexiconRecord.from_json(winner(world, chosen).lexicon or {})
    assert replace(kept, relevance=record.relevance) == record
    assert kept.relevance != record.relevance, "by the questions and chunks of today"
    world.publish(chosen)
    assert json.dumps(world.record.to_json()) == json.dumps({**kept.to_json(), "chunks": DOCUMENTS + 1})
    assert world.find("lateword")[0] == world.chunk("late").chunk_id


def test_stems_of_a_document_deleted_during_the_fit_are_not_written(
    world: LexiconWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add({"gone": "w1x w2x secretword sharedword", "kept": "w3x sharedword"})
    chosen = world.choose()
    fit = lexicons.fit_lexicon

    def meanwhile(*given: Any, **named: Any) -> Any:
        world.delete("gone")
        return fit(*given, **named)

    monkeypatch.setattr(lexicons, "fit_lexicon", meanwhile)
    assert world.publish(chosen).counts["rows"] == DOCUMENTS + 1
    assert world.versions().keys() >= {"sharedword", "w1x"}
    assert "secretword" not in world.versions()
    assert world.find("secretword") == []


def test_without_questions_the_lexicon_has_no_relevance(auto: Connection, settings: Settings) -> None:
    bare = LexiconWorld(auto, settings)
    bare.go_live()
    assert bare.record.relevance == {"encoder": {}, "text": {}}
    assert bare.record.lexicon_weight == 0
    rows = bare.conn.execute("SELECT chunk_id, relevance FROM heal.find(%s)", (bare.texts["d7"],)).fetchall()
    assert rows[0] == (bare.chunk("d7").chunk_id, None)


def test_stems_with_quotes_backslashes_and_other_languages(world: LexiconWorld) -> None:
    world.add({"odd": r"w1x C:\temp\file o'neill's http://host.example/a%20b?c=1 5.5e3 naïveté 東京"})
    world.go_live()
    names = {stem for _, stem in world.lexicon().stems}
    wanted = world.conn.execute(
        "SELECT w.lexeme FROM heal.chunk c, unnest(c.words) w WHERE c.chunk_id = %s", (world.chunk("odd").chunk_id,)
    ).fetchall()
    assert len(wanted) > 8
    assert {stem for (stem,) in wanted} <= names
    for (stem,) in wanted:
        assert world.conn.execute("SELECT stem FROM heal.explain_find(%s)", (stem,)).fetchall()
    assert world.find("naïveté 東京")[0] == world.chunk("odd").chunk_id


def test_a_live_generation_of_an_older_release_is_searched_and_gets_a_lexicon(world: LexiconWorld) -> None:
    world.go_live()
    number = world.active.generation_id
    world.conn.execute(f"DROP TABLE heal.lex_g{number:06d}")  # type: ignore[arg-type]
    world.generations.set_fields(number, lexicon=None)
    world.conn.execute("CALL heal.plan_searches()")
    assert world.find("w1x w2x") == []
    vector = world.spaces.load_chunks(world.space)[1][0]
    searched = "SELECT chunk_id FROM heal.hybrid_search('w1x w2x', %s, %s::bigint)"
    rows = world.conn.execute(searched, (vector, number)).fetchall()  # type: ignore[arg-type]
    assert len(rows) == 10
    world.add({"late": "w1x w2x lateword"})
    assert world.night("n1").counts["rows_added"] == 1
    chosen = world.choose("r2", gate_min_questions=1000)  # nothing new, and no candidate passes
    assert chosen.number("keep_rows") == 1
    world.publish(chosen)
    assert world.record.lexicon_weight == 0
    assert world.find("lateword")[0] == world.chunk("late").chunk_id
