"""Words that only questions have: fitted, searched with, added at night, gone with their questions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.lexicon.lexicon import ASKED_WEIGHT
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.report.store_search import Query, search_store
from heal_tasks.steps.vectors import corpus_stems
from heal_tasks.steps.vectors.new_stems import extend_lexicon
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.search import unknown_words
from tests.steps.lexicon_world import DOCUMENTS, LexiconWorld

RECORD = NudgeRecord("N", 0.3, 1.0, None, 0, 0.0, False)


@pytest.fixture(scope="module")
def built(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> LexiconWorld:
    """A live generation; a language model asked about every document, of the first ten with a word of its own."""
    with LexiconWorld.opened(module_database_url, tmp_path_factory.mktemp("var")) as made:
        made.ask_of_all("unseen_test")
        first = ((number, made.texts[f"d{number}"].split()[0]) for number in range(10))
        made.ask_each([(f"d{number}", f"slangword own{number} {word}") for number, word in first], "train")
        made.go_live()
        made.generations.set_fields(made.active.generation_id, nudge=RECORD.to_json())
    return made


@pytest.fixture
def world(built: LexiconWorld, postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[LexiconWorld]:
    with built.copied(postgres, tmp_path) as made:
        yield made


def counted(world: LexiconWorld, word: str) -> list[float]:
    """The number of chunks with a word, and its weight."""
    row = world.conn.execute("SELECT chunks, weight FROM heal.explain_find(%s)", (word,)).fetchone()
    assert row is not None
    return list(row)


def test_a_word_of_questions_alone_finds_their_documents(world: LexiconWorld) -> None:
    assert counted(world, "own3") == pytest.approx([0, ASKED_WEIGHT * np.log1p(DOCUMENTS)])
    for number in range(10):
        assert world.find(f"own{number}")[0] == world.chunk(f"d{number}").chunk_id
    assert counted(world, "slangword") == counted(world, "own3")
    assert world.find("q0d40") == [], "a question that is held out has taught nothing"


def test_where_people_see_which_words_count(world: LexiconWorld) -> None:
    assert unknown_words(world.conn, "own3") == []
    assert unknown_words(world.conn, "nowhere") == ["nowher"]
    answer = search_store(world.conn, Query("own3 w1x nowhere"))
    assert {stem.stem: bool(stem.chunks) for stem in answer.known} == {"own3": False, "w1x": True}
    assert answer.unknown == ["nowher"]


def test_words_in_common_still_choose_the_rows(world: LexiconWorld) -> None:
    """Also where a stem of questions alone is the rarest one."""
    alone, both = (
        world.conn.execute(
            "SELECT chunk_id, weight FROM heal.matching(%s, "
            "(SELECT g FROM heal.generation g WHERE g.state = 'active'), 5, candidates => 1)",
            (text,),
        ).fetchall()
        for text in ("w1x", "w1x own3")
    )
    assert len(alone) == 5
    assert both == alone


def test_a_word_that_a_question_brings_is_known_the_night_after(world: LexiconWorld) -> None:
    before = world.versions()
    assert world.find("lateword") == []
    world.ask("d20", f"lateword {world.texts['d20'].split()[0]}", "train")
    world.ask("d21", "testword", "seen_test")
    world.night("n1")
    assert world.find("lateword")[0] == world.chunk("d20").chunk_id
    assert world.find("testword") == []
    assert before.items() <= world.versions().items(), "known stems keep their rows"
    assert counted(world, "lateword") == pytest.approx([0, ASKED_WEIGHT * np.log1p(DOCUMENTS)])
    at_night = world.query_vectors(["lateword"])
    world.publish(world.choose("r2"))
    assert float(at_night[0] @ world.query_vectors(["lateword"])[0]) > 0.8, "as a fit of everything has it"


def test_a_word_that_a_document_brings_later_counts_its_chunks(world: LexiconWorld) -> None:
    world.add({"late": "slangword w1x w2x w3x"})
    world.night("n1")
    assert counted(world, "slangword") == pytest.approx([1, np.log1p(DOCUMENTS)])
    found = world.find("slangword w1x w2x w3x")
    assert found[0] == world.chunk("late").chunk_id


def test_words_that_a_new_document_and_its_question_bring_together(world: LexiconWorld) -> None:
    world.add({"late": "bothword w1x textword w2x"})
    world.ask("late", "bothword peopleword", "train")
    world.night("n1")
    for word in ("bothword", "peopleword", "textword"):
        assert world.find(word)[0] == world.chunk("late").chunk_id
    assert counted(world, "bothword") == counted(world, "textword") == pytest.approx([1, np.log1p(DOCUMENTS)])
    assert counted(world, "peopleword") == pytest.approx([0, ASKED_WEIGHT * np.log1p(DOCUMENTS)])


def test_words_go_with_the_last_question_that_has_them(world: LexiconWorld) -> None:
    world.delete("d3")
    left = world.versions().keys()
    assert "own3" not in left
    assert {"slangword", "own4"} <= left, "other questions have these"
    world.conn.execute("DELETE FROM heal.question WHERE text LIKE '%own4%'")
    assert "own4" in world.versions()
    assert world.lexicons.delete_unused(world.active) == 1
    assert world.versions().keys() == left - {"own4"}
    for number in range(10):
        world.delete(f"d{number}")
    assert "slangword" not in world.versions()


def test_questions_that_are_not_fitted_take_no_place_of_those_that_are(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_stems, "MOST_QUESTIONS", 40)
    world = LexiconWorld(auto, settings)
    world.ask_of_all("train")
    world.ask_of_all("seen_validation", "human")
    world.ask_of_all("unseen_test", "human")
    first = ((number, world.texts[f"d{number}"].split()[0]) for number in range(20))
    world.ask_each([(f"d{number}", f"people{number} {word}") for number, word in first], "train", "human")
    world.go_live()
    assert world.record.by_people
    stems, questions = world.versions().keys(), world.systems().questions
    assert (questions.human & questions.moves).sum() == 100
    fitted = {f"people{number}" for number in range(20)} & stems
    assert len(fitted) >= 5, "a third of them: 34 of 100 human questions, evenly"


def test_texts_that_are_gone_bring_no_stem(world: LexiconWorld) -> None:
    chunk = world.chunk("d20").chunk_id
    world.conn.execute("UPDATE heal.chunk SET text = text || ' brandnewword' WHERE chunk_id = %s", (chunk,))
    world.conn.execute("UPDATE heal.chunk SET superseded_at = now() WHERE chunk_id = %s", (chunk,))
    assert extend_lexicon(world.conn, world.active, np.array([chunk])) == 0


def test_the_last_chunk_of_another_language_takes_no_word_of_questions(world: LexiconWorld) -> None:
    world.add({"german": "zugword w1x"})
    world.conn.execute("UPDATE heal.document SET language = 'german' WHERE external_id = 'german'")
    world.conn.execute("UPDATE heal.chunk SET text = text")
    world.ask("d0", "zugword w2x", "train")
    world.night("n1")
    assert world.lexicons.load(world.active, [("english", "zugword"), ("german", "zugword")]).chunks.tolist() == [0, 1]
    world.delete("german")
    assert world.lexicons.load(world.active, [("english", "zugword"), ("german", "zugword")]).chunks.tolist() == [0]


def test_where_words_are_public_questions_about_restricted_documents_bring_none(
    auto: Connection, settings: Settings
) -> None:
    world = LexiconWorld(auto, settings.model_copy(update={"public_words": True}))
    auto.execute("UPDATE heal.document SET acl = '{alice}' WHERE external_id = 'd1'")
    for name in ("d0", "d1", "d2"):
        world.ask(name, f"of{name} {world.texts[name].split()[0]}", "train")
    world.ask_of_all("unseen_test")
    world.go_live()
    assert world.record.public
    assert {"ofd0", "ofd2"} <= world.versions().keys()
    assert "ofd1" not in world.versions()
    world.generations.set_fields(world.active.generation_id, nudge=RECORD.to_json())
    for name in ("d1", "d2"):
        world.ask(name, f"late{name}", "train")
    world.night("n1")
    assert "lated2" in world.versions()
    assert "lated1" not in world.versions()
