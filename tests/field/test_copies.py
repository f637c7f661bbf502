"""Of two documents with one text each keeps what was said about the text, whichever of them is deleted."""

import pytest

from heal_tasks.core.ids import document_id
from heal_tasks.core.settings import Settings
from heal_tasks.questions.splits import is_unseen
from heal_tasks.store.db import Connection
from tests.field.inbox import column, ingest, judge, judged, note, put_all, source


@pytest.mark.parametrize("by", ["file", "SQL"])
def test_a_copy_that_is_left_keeps_what_was_said_about_the_other(settings: Settings, auto: Connection, by: str) -> None:
    inbox = put_all(settings, {"a.md": note(1), "other.md": note(2), "third.md": note(3)})
    ingest(settings)
    put_all(settings, {"b.md": note(1)})
    ingest(settings)
    judge(settings, auto, ("one", "a.md"), ("two", "b.md"))
    auto.execute(
        "INSERT INTO heal.chunk_asked (content_hash, prompt_hash, model, chunk_id, questions, dropped) "
        "SELECT content_hash, 'p', 'm', chunk_id, 1, 0 FROM heal.chunk"
    )
    if by == "file":
        (inbox / "a.md").unlink()
        assert ingest(settings).refs["deleted"] == 1
    else:
        key = document_id(source(settings), "a.md")
        assert auto.execute("SELECT documents_deleted FROM heal.delete_document(%s)", (key,)).fetchone() == (1,)
        assert auto.execute("SELECT documents_deleted FROM heal.delete_document(%s)", (key,)).fetchone() == (0,)
    assert judged(auto) == [("one", "b.md"), ("two", "b.md")]
    assert auto.execute("SELECT FROM heal.chunk_asked").rowcount == 3
    splits = column(auto, "SELECT DISTINCT split FROM heal.question")
    unseen = is_unseen(document_id(source(settings), "b.md"))
    assert splits == (["unseen_validation"] if unseen else ["train"])


def test_a_question_of_a_copy_stays_on_its_side_of_training_and_test(auto: Connection) -> None:
    keys = [document_id("s", str(number)) for number in range(50)]
    assert 0 < sum(map(is_unseen, keys)) < 50
    for key in keys:
        for split in ("train", "seen_validation", "seen_test", "unseen_validation", "unseen_test"):
            (made,) = column(auto, "SELECT heal.split_at(%s, %s)", key, split)
            assert made.startswith("unseen") == is_unseen(key)
            assert made.endswith("test") == split.endswith("test")
