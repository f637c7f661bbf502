"""The live lexicon at night: new stems get vectors, known ones keep theirs, the cost is that of what arrived."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.steps import nudge_live
from heal_tasks.steps.vectors.new_stems import extend_lexicon
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import GenerationRepository
from tests.steps.lexicon_world import DOCUMENTS, LexiconWorld

RECORD = NudgeRecord("N", 0.3, 1.0, None, 0, 0.0, False)


def new_texts(prefix: str, count: int, new_words: int = 6) -> dict[str, str]:
    """Documents of three new words and three known ones each; new words are shared."""
    rng = np.random.default_rng(len(prefix))
    return {
        f"{prefix}{number}": " ".join(
            [f"{prefix}word{n}" for n in rng.choice(new_words, 3, replace=False)]
            + [f"w{n}x" for n in rng.choice(60, 3, replace=False)]
        )
        for number in range(count)
    }


@pytest.fixture(scope="module")
def built(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> LexiconWorld:
    """A live generation, to be copied."""
    with LexiconWorld.opened(module_database_url, tmp_path_factory.mktemp("var")) as made:
        made.ask_of_all("seen_test")
        made.ask_of_all("unseen_test")
        made.go_live()
    return made


@pytest.fixture
def all_rows(built: LexiconWorld, postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[LexiconWorld]:
    """A live generation whose nights compute all rows, as it has no nudge record."""
    with built.copied(postgres, tmp_path) as made:
        yield made


@pytest.fixture(params=["touched rows", "all rows"])
def world(all_rows: LexiconWorld, request: pytest.FixtureRequest) -> LexiconWorld:
    """A live generation; nights compute touched rows by its nudge record, or all rows."""
    if request.param == "touched rows":
        all_rows.generations.set_fields(all_rows.active.generation_id, nudge=RECORD.to_json())
    return all_rows


def test_new_stems_find_new_documents_and_known_stems_keep_their_vectors(world: LexiconWorld) -> None:
    before, versions = world.lexicon(), world.versions()
    texts = new_texts("late", 5)
    world.add(texts)
    assert world.find("lateword1 lateword2") == []
    assert world.night("n1").counts["rows_added"] == 5
    after = world.lexicon()
    assert [stem for stem in after.stems if stem not in before.stems] == [
        ("english", f"lateword{number}")
        for number in sorted({int(w[8:]) for t in texts.values() for w in t.split()[:3]})
    ]
    known = [after.stems.index(stem) for stem in before.stems]
    np.testing.assert_array_equal(after.vectors[known], before.vectors)
    assert versions.items() <= world.versions().items()
    for name, text in texts.items():
        assert world.find(text)[0] == world.chunk(name).chunk_id
        # By the new words alone a document that has all of them is first.
        first, asked = world.find(" ".join(text.split()[:3]))[0], set(text.split()[:3])
        assert first in [world.chunk(other).chunk_id for other in texts if asked <= set(texts[other].split())]
    new = after.stems.index(("english", "lateword1"))
    holders = sum("lateword1" in text.split() for text in texts.values())
    assert after.chunks[new] == holders
    assert after.weights[new] == pytest.approx(np.log1p(DOCUMENTS / holders), abs=1e-5)


def test_two_nights_equal_one(world: LexiconWorld) -> None:
    known = world.lexicon().stems
    texts = new_texts("late", 12, new_words=10) | {
        f"more{number}": f"{text} extra{number}" for number, text in enumerate(new_texts("late", 6, 10).values())
    }
    names = list(texts)
    for night, part in enumerate((names[::2], names[1::2])):
        world.add({name: texts[name] for name in part})
        world.night(f"n{night}")
    questions = [" ".join(text.split()[:4]) for text in texts.values()]
    vectors, places = world.query_vectors(questions), [world.find(text) for text in questions]
    world.conn.execute(
        f"DELETE FROM heal.lex_g{world.active.generation_id:06d} WHERE stem <> ALL(%s)",  # type: ignore[arg-type]
        ([stem for _, stem in known],),
    )
    world.conn.execute("CALL heal.plan_searches()")
    arrived = np.array(sorted(world.chunk(name).chunk_id for name in texts))
    assert extend_lexicon(world.conn, world.active, arrived) == 10 + 6
    at_once = world.query_vectors(questions)
    assert np.einsum("ij,ij->i", vectors, at_once).min() > 0.8
    assert np.einsum("ij,ij->i", vectors, at_once).mean() > 0.95
    shared = [len(np.intersect1d(a, world.find(text))) for a, text in zip(places, questions, strict=True)]
    assert np.mean(shared) > 7.5


def test_nothing_new_writes_nothing(world: LexiconWorld) -> None:
    versions = world.versions()
    world.add({"late": world.words(8)})
    assert world.night("n1").counts["rows_added"] == 1
    world.night("n2")
    assert world.versions() == versions


def test_stems_of_deleted_and_replaced_texts_are_gone(world: LexiconWorld) -> None:
    world.add({"gone": "w1x w2x secretword", "kept": "w3x w4x sharedword", "also": "w5x w6x sharedword oldword"})
    world.night("n1")
    assert {"secretword", "sharedword", "oldword"} <= world.versions().keys()
    world.delete("gone")
    world.delete("kept")
    world.add({"also": "w5x w6x sharedword newword"})
    world.night("n2")
    left = world.versions().keys()
    assert "secretword" not in left
    assert "oldword" not in left
    assert {"sharedword", "newword"} <= left
    assert world.find("secretword") == world.find("oldword") == []
    assert world.find("newword")[0] == world.chunk("also").chunk_id


def test_a_text_that_was_replaced_before_its_first_night(world: LexiconWorld) -> None:
    world.add({"late": "w1x w2x firstword"})
    world.add({"late": "w1x w2x secondword"})
    world.night("n1")
    assert "firstword" not in world.versions()
    assert world.find("secondword")[0] == world.chunk("late").chunk_id


def test_a_night_that_rewrites_has_a_lexicon_fitted_anew(
    all_rows: LexiconWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nudge_live, "FEW_ROWS", 0)
    monkeypatch.setattr(nudge_live, "REWRITE_SHARE", 0)
    old, record = all_rows.active, all_rows.record
    all_rows.add(new_texts("late", 5))
    all_rows.night("n1")
    assert all_rows.active.generation_id != old.generation_id
    assert all_rows.record.chunks == DOCUMENTS + 5
    assert all_rows.record.relevance == record.relevance
    assert all_rows.record.lexicon_weight == record.lexicon_weight
    assert {"lateword1", "w1x"} <= all_rows.versions().keys()
    assert all_rows.find(new_texts("late", 5)["late0"])[0] == all_rows.chunk("late0").chunk_id


def test_a_rewrite_that_was_killed_leaves_nothing_behind_when_its_night_is_repeated(
    all_rows: LexiconWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nudge_live, "FEW_ROWS", 0)
    monkeypatch.setattr(nudge_live, "REWRITE_SHARE", 0)
    old = all_rows.active.generation_id
    all_rows.add(new_texts("late", 5))

    def kill(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as attempt:
        attempt.setattr(GenerationRepository, "activate", kill)
        with pytest.raises(RuntimeError, match="killed"):
            all_rows.night("n1")
    all_rows.night("n1")
    assert {item.generation_id: item.state for item in all_rows.generations.list()} == {
        old: "previous", old + 1: "failed", old + 2: "active",
    }  # fmt: skip
    assert not all_rows.generations.drop_tables(old + 1)


def rows_read(conn: Connection) -> int:
    """Rows and index entries of the corpus, the base vectors and the lexicon that have been read so far."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    row = conn.execute(
        "SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname ~ %(tables)s) "
        "+ (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname ~ %(tables)s)",
        {"tables": "^(chunk$|document$|lex_g|base_s)"},
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_the_cost_grows_with_what_arrived(auto: Connection, settings: Settings) -> None:
    world = LexiconWorld(auto, settings, 40)
    world.go_live()
    read = {}
    for size in (0, 3000):
        # Stored without vectors or stems of the lexicon, as rows of other generations are.
        auto.execute(
            "INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash) "
            "SELECT n, 'file:more', n::text, 'm', '', 'w1x filler', n::text FROM generate_series(1, %s) n",
            (size,),
        )
        auto.execute(
            "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) "
            "SELECT n, n, 0, 'w1x w2x filler' || n, n::text FROM generate_series(1, %s) n",
            (size,),
        )
        auto.execute(
            f"INSERT INTO heal.lex_g{world.active.generation_id:06d} "  # type: ignore[arg-type]
            f"SELECT 'english', 'filler' || n, 1, 1, (SELECT embedding FROM heal.lex_g{world.active.generation_id:06d} "
            "LIMIT 1) FROM generate_series(1, %s) n",
            (20 * size,),
        )
        auto.execute("VACUUM ANALYZE")
        for count in (2, 20):
            texts = new_texts(f"s{size}n{count}", count)
            world.add(texts)
            ids = np.array(sorted(world.chunk(name).chunk_id for name in texts))
            before = rows_read(auto)
            with connect(settings.require_database_url(), autocommit=True) as conn:
                conn.execute("SET enable_seqscan = off")  # a small table would be read whole
                assert extend_lexicon(conn, world.active, ids) > 0
                conn.execute("SELECT pg_stat_force_next_flush()")
            read[size, count] = rows_read(auto) - before
    for size in (0, 3000):
        assert 0 < 2 * read[size, 2] < read[size, 20]
    for count in (2, 20):
        assert read[3000, count] < 1.5 * read[0, count]
