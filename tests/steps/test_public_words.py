"""HEAL_PUBLIC_WORDS: topics and lexicon are those of the documents without readers, as if there were no others."""

import json
from pathlib import Path

import numpy as np
import pytest

from heal_tasks.core.errors import StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.questions.splits import is_unseen
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection, connect
from heal_tasks.topics.tree import TopicTree
from tests.conftest import fresh_database
from tests.steps.lexicon_world import LexiconWorld
from tests.topics.conftest import plant

HIDDEN = {f"h{number}": f"w{number}x w{number + 1}x w{number + 2}x hiddenword{number % 3}" for number in range(12)}


def restrict(conn: Connection, *names: str) -> None:
    assert conn.execute(
        "UPDATE heal.document SET acl = '{alice}' WHERE external_id = ANY (%s)", (list(names),)
    ).rowcount == len(names)


def live(conn: Connection, settings: Settings, hidden: dict[str, str]) -> LexiconWorld:
    """A live generation over the planted documents and some that have readers, each with a question by a person."""
    world = LexiconWorld(conn, settings)
    if hidden:
        world.add(hidden)
        restrict(conn, *hidden)
    for split in ("train", "seen_test", "unseen_test"):
        world.ask_of_all(split)
    if hidden:
        world.ask_each([(name, text.rpartition(" ")[0]) for name, text in hidden.items()], "train")
    world.go_live()
    return world


def test_the_lexicon_is_that_of_the_public_documents(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    found = []
    for hidden, public in (({}, False), (HIDDEN, True), (HIDDEN, False)):
        with fresh_database(postgres) as url, connect(url, autocommit=True) as conn:
            settings = load_settings(var_dir=tmp_path, database_url=url, gate_min_questions=5, public_words=public)
            world = live(conn, settings, hidden)
            found.append(world.lexicon())
            assert world.record.public == public
            assert world.record.chunks == (92 if hidden and not public else 80)
            if hidden:
                conn.execute("SET heal.principals = 'alice'")
                asked = world.find("hiddenword1 hiddenword2")
                assert bool(asked) is not public, "words that are hidden alone find nothing"
                assert world.chunk("h3").chunk_id in world.find(HIDDEN["h3"], 5)
    without, restricted, shared = found
    assert restricted.stems == without.stems
    np.testing.assert_array_equal(restricted.chunks, without.chunks)
    np.testing.assert_array_equal(restricted.weights, without.weights)
    np.testing.assert_allclose(restricted.vectors, without.vectors, atol=1e-3)
    assert set(shared.stems) - set(without.stems) == {("english", f"hiddenword{number}") for number in range(3)}
    assert (shared.chunks.sum(), np.abs(shared.vectors[:20] - without.vectors[:20]).max()) > (
        without.chunks.sum(),
        0.01,
    )


def test_a_night_adds_the_stems_of_public_documents_alone(auto: Connection, settings: Settings) -> None:
    world = live(auto, settings.model_copy(update={"public_words": True}), {})
    late = {"open": "w1x w2x lateword openword", "shut": "w3x w4x lateword shutword", "both": "w5x w6x lateword"}
    world.add(late)
    restrict(auto, "shut")
    assert world.night("n1").counts["rows_added"] == 3
    lexicon = world.lexicon()
    counts = dict(zip((stem for _, stem in lexicon.stems), lexicon.chunks.tolist(), strict=True))
    assert (counts["lateword"], counts["openword"]) == (2, 1)
    assert "shutword" not in counts


def test_a_realignment_hides_words_also_if_nothing_better_is_found(auto: Connection, settings: Settings) -> None:
    world = live(auto, settings, {})
    late = {"shut": "w3x w4x shutword", "open": "w5x w6x openword"}
    world.add(late)
    world.night("n1")
    restrict(auto, "shut")

    def stems() -> set[str]:
        return {stem for _, stem in world.lexicon().stems} & {"shutword", "openword"}

    assert stems() == {"shutword", "openword"}
    route = load_step("route")
    arrived: dict[str, int | str] = {"new": 0, "changed": 0, "deleted": 0}
    hiding = settings.model_copy(update={"public_words": True})
    made = route.run(hiding, Manifest(run_id="hide", refs=arrived))
    assert made.text("route") == "realign"
    assert "HEAL_PUBLIC_WORDS is true, and the topics and the lexicon of generation" in made.note
    before, world.settings = world.active, hiding
    chosen = world.choose("hide", gate_epsilon=0.0)
    assert "its vectors stay, with the topics of this run" in chosen.text("verdict")
    world.publish(chosen)
    assert (stems(), world.active.space_id) == ({"openword"}, before.space_id)
    assert route.run(hiding, Manifest(run_id="again", refs=arrived)).text("route") == "nothing"
    # A list that comes later is hidden by the next realignment, whatever else that finds.
    restrict(auto, "open")
    auto.execute("UPDATE heal.document SET acl_changed_at = now() WHERE external_id = 'open'")
    world.publish(world.choose("later"))
    assert stems() == set()


def write(folder: Path, texts: dict[str, str], **fields: object) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"id": name, "title": "", "text": text} | fields for name, text in texts.items()]
    (folder / f"{'shut' if fields else 'open'}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_topics_have_the_words_of_public_documents_alone(
    postgres: EmbeddedPostgres, tmp_path: Path, database_url: str
) -> None:
    planted = list(plant(4, 300).texts)
    texts = {str(number): text for number, text in enumerate(planted[:200])}
    hidden = {f"h{number}": f"{text} hiddenword otherhiddenword" for number, text in enumerate(planted[200:])}
    write(tmp_path / "inbox", texts)
    write(tmp_path / "inbox", hidden, acl=["alice"])
    settings = load_settings(
        var_dir=tmp_path, database_url=database_url, topic_perturbations=4, topic_max_k=4, public_words=True
    )
    load_step("ingest").run(settings, Manifest(run_id="r"))
    made = load_step("label").run(settings, Manifest(run_id="r"))
    tree = TopicTree.load(Path(made.text("topics_uri")))
    assert not any("hiddenword" in word for word in tree.vocabulary)
    with connect(database_url) as conn:
        rows = conn.execute(
            """SELECT t.document_id, d.acl IS NOT NULL, t.projected
            FROM heal.document_topic t JOIN heal.document d USING (document_id)"""
        ).fetchall()
        assert len(rows) == 300, "documents with readers are labelled, too"
        assert all(projected == (shut or is_unseen(key)) for key, shut, projected in rows)
        assert len(tree.leaves) == sum(not projected for *_, projected in rows)
        # Another list changes what the tree may be made of, so it is made again.
        conn.execute("UPDATE heal.document SET acl = '{alice}' WHERE external_id = '7'")
        conn.commit()
        again = load_step("label").run(settings, Manifest(run_id="r"))
        assert again.text("topics_uri") != made.text("topics_uri")
        conn.execute("UPDATE heal.document SET acl = '{alice}'")
        conn.commit()
        with pytest.raises(StepError, match="each of the 300 documents has a list of readers"):
            load_step("label").run(settings, Manifest(run_id="r"))
