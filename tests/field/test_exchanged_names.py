"""What was written about a text goes with it where names are exchanged, and stays with the name where it is gone."""

import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.questions.splits import is_unseen
from heal_tasks.store.db import Connection
from tests.field.inbox import ingest, judge, judged, note, put_all


def written(auto: Connection) -> None:
    """One question of a language model at every chunk, named after the document."""
    auto.execute(
        "INSERT INTO heal.question "
        "(question_id, chunk_id, text, answer, evidence, kind, writer, model, prompt_hash, split) "
        "SELECT c.chunk_id / 3, c.chunk_id, 'of ' || d.external_id, 'a', 'e', 'question', 'llm', 'm', 'p', 'train' "
        "FROM heal.chunk c JOIN heal.document d USING (document_id)"
    )
    auto.execute(
        "INSERT INTO heal.chunk_asked (content_hash, prompt_hash, model, chunk_id, questions, dropped) "
        "SELECT content_hash, 'p', 'm', chunk_id, 1, 0 FROM heal.chunk"
    )


@pytest.mark.parametrize("suffix", ["md", "txt"])
@pytest.mark.parametrize(
    "names_after",
    [{1: 2, 2: 1}, {1: 2, 2: 3, 3: 1}, {1: 2, 2: 3, 3: 4}],
    ids=["two change places", "three change places", "a page is inserted"],
)
def test_texts_that_exchange_names_keep_what_was_written_about_them(
    settings: Settings, auto: Connection, suffix: str, names_after: dict[int, int]
) -> None:
    texts = {number: note(number) if suffix == "md" else f"Pump {number} needs oil." for number in range(4)}
    inbox = put_all(settings, {f"{number}.{suffix}": text for number, text in texts.items()})
    ingest(settings)
    judge(settings, auto, ("one", f"1.{suffix}"), ("two", f"2.{suffix}"))
    written(auto)
    for number in names_after:
        (inbox / f"{number}.{suffix}").unlink()
    put_all(settings, {f"{new}.{suffix}": texts[old] for old, new in names_after.items()})
    ingest(settings)
    expected = [(f"of {old}.{suffix}", f"{names_after.get(old, old)}.{suffix}") for old in texts]
    assert judged(auto) == [*expected, ("one", f"2.{suffix}"), ("two", f"{names_after[2]}.{suffix}")]
    asked = "SELECT FROM heal.chunk_asked JOIN heal.chunk USING (chunk_id, content_hash) WHERE superseded_at IS NULL"
    assert auto.execute(asked).rowcount == 4
    splits = "SELECT document_id, split FROM heal.question JOIN heal.chunk USING (chunk_id)"
    assert all(is_unseen(key) == split.startswith("unseen") for key, split in auto.execute(splits) if split != "train")


def test_a_judgment_of_a_changed_text_stays_with_its_document(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.md": note(1), "b.md": note(2)})
    ingest(settings)
    judge(settings, auto, ("one", "a.md"))
    put_all(settings, {"a.md": note(5)})
    ingest(settings)
    assert judged(auto) == [("one", "a.md")]


def test_a_copy_keeps_the_questions_when_the_other_is_changed(settings: Settings, auto: Connection) -> None:
    put_all(settings, {"a.md": note(1)})
    ingest(settings)
    written(auto)
    put_all(settings, {"b.md": note(1)})
    ingest(settings)
    put_all(settings, {"a.md": note(5)})
    ingest(settings)
    assert judged(auto) == [("of a.md", "b.md")]


def test_another_kind_of_file_with_the_same_text_is_the_same_document(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {f"{number}.md": note(number) for number in range(3)})
    ingest(settings)
    judge(settings, auto, ("one", "1.md"))
    (inbox / "1.md").rename(inbox / "1.txt")
    assert ingest(settings).counts["moved"] == 1
    assert judged(auto) == [("one", "1.txt")]
