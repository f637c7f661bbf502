"""The bench of relevance on planted words: all generations and paths, measured on the questions that fit no curve."""

from bench.relevance import halves, rows_of
from heal_tasks.core.settings import Settings
from heal_tasks.steps.quality.scoring import judged
from heal_tasks.store.db import Connection
from tests.steps.lexicon_world import DOCUMENTS, LexiconWorld


def test_every_generation_and_path_has_a_row(auto: Connection, settings: Settings) -> None:
    world = LexiconWorld(auto, settings)
    for name, text in world.texts.items():
        first, second, third = text.split()[:3]
        for number, split in enumerate(("train", "unseen_validation", "unseen_test", "unseen_test", "unseen_test")):
            world.ask(name, f"{first} {second} {third} {number}", split, "human", right=0.3)  # type: ignore[arg-type]
    systems = world.systems()
    plain = systems.plain("base model", world.space)
    key = judged(systems.questions, systems.chunks, systems.questions.in_splits("unseen_test"))
    fitting, counting = halves(key, systems.questions.question_ids)
    assert sorted([*fitting.rows, *counting.rows]) == key.rows.tolist()
    assert min(len(fitting.rows), len(counting.rows)) > DOCUMENTS
    rows = list(rows_of(systems, plain, plain))
    wanted = [(name, path) for name in ("first light", "lexicon", "NUDGE", "model") for path in ("encoder", "text")]
    assert [(row["generation"], row["path"]) for row in rows] == wanted
    for row in rows:
        assert row["questions"] == len(counting.rows)
        assert row["rows above .5"] > 0
        assert abs(float(row["right"].split()[0]) - float(row["promised"])) < 0.1
