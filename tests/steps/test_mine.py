"""Step mine on questions that several documents answer."""

import json
from collections import Counter
from pathlib import Path

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record, Split
from heal_tasks.steps import mine as mine_step
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors.training_set import load
from heal_tasks.store.db import connect
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.questions.questions import QuestionRepository
from heal_tasks.training.data import several_answers
from heal_tasks.training.encoder import Encoder
from tests.steps.asking import WORDS, add, body

DOCUMENTS = 60


@pytest.fixture(scope="module")
def mined(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training set of people's questions about a word each, which six documents answer."""
    settings: Settings = load_settings(
        var_dir=tmp_path_factory.mktemp("var"), database_url=module_database_url, train_near_negatives=4,
    )  # fmt: skip
    questions = {f"Which {word} chamber is it?": word for word in WORDS}
    pairs = [
        (text, f"d{number}") for text, word in questions.items() for number in range(DOCUMENTS)
        if f"The {word} chamber" in body(number)
    ]  # fmt: skip
    held_out = set(list(questions)[5:])
    with connect(module_database_url, autocommit=True) as conn:
        add(conn, range(DOCUMENTS))

        def split(_document: int, text: str) -> Split:
            return "unseen_validation" if text in held_out else "train"

        assert QuestionRepository(conn).import_judgments("s", pairs, split) == (DOCUMENTS, [])
    load_step("embed_base").run(settings, Manifest(run_id="r1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mine_step, "VALIDATION_QUESTIONS", 3)
        patch.setattr(mine_step, "VALIDATION_CHUNKS", 20)
        made = load_step("mine").run(settings, Manifest(run_id="r1", refs={"topic_run_id": 0}))
    assert made.counts["train"] == DOCUMENTS // 2
    assert made.counts["validation"] == 3
    return Path(made.text("training_set_uri"))


def test_no_right_answer_is_mined_as_a_negative(mined: Path) -> None:
    rows = [json.loads(line) for line in (mined / "train.jsonl").read_text().splitlines()]
    by_question: dict[int, set[str]] = {}
    for row in rows:
        by_question.setdefault(row["question_id"], set()).add(row["question"])
    assert len(by_question) == 5
    assert all(len(texts) == 1 for texts in by_question.values())
    for row in rows:
        word = row["question"].split()[1]
        assert f"The {word} chamber" in row["document"]
        assert len(row["negatives"]) == 4
        assert not any(f"The {word} chamber" in negative["document"] for negative in row["negatives"])
    data, _ = load(mined)
    answers = several_answers(data.question_ids, data.document_ids)
    assert {row: len(documents) for row, documents in answers.items()} == dict.fromkeys(range(len(rows)), 6)


def test_of_many_questions_some_train_each_with_all_its_answers(
    mined: Path, module_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del mined  # it has filled the store
    monkeypatch.setattr(mine_step, "MOST_QUESTIONS", 3)
    settings = load_settings(var_dir=tmp_path, database_url=module_database_url, train_near_negatives=4)
    made = load_step("mine").run(settings, Manifest(run_id="r3", refs={"topic_run_id": 0}))
    data, validation = load(Path(made.text("training_set_uri")))
    assert Counter(Counter(data.questions).values()) == {6: 3}
    assert len(validation.queries) == 5


def test_a_held_out_question_is_asked_once_and_every_answer_in_the_pool_counts(mined: Path) -> None:
    _, validation = load(mined)
    assert len(set(validation.queries)) == len(validation.queries) == 3
    assert len(validation.documents) == 20
    for query, positives in zip(validation.queries, validation.positives, strict=True):
        right = {place for place, text in enumerate(validation.documents) if f"The {query.split()[1]} chamber" in text}
        assert set(positives.tolist()) == right


def test_base_vectors_of_the_validation_set_are_those_of_its_texts(mined: Path) -> None:
    _, validation = load(mined)
    assert validation.base_vectors is not None
    encoder = Encoder(resolve_model(PACKAGED_MODEL), device="cpu")
    queries, documents = validation.base_vectors
    assert (queries * encoder.encode(validation.queries, role="query")).sum(axis=1).min() > 0.999
    assert (documents * encoder.encode(validation.documents)).sum(axis=1).min() > 0.999


def test_where_people_have_asked_enough_they_alone_train_and_judge(
    mined: Path, module_database_url: str, tmp_path: Path
) -> None:
    del mined  # it has filled the store: five of people's questions train and five are held out
    settings = load_settings(
        var_dir=tmp_path, database_url=module_database_url, train_near_negatives=0,
        question_filters=(),
    )  # fmt: skip
    for step in ("ask", "embed_base"):
        load_step(step).run(settings, Manifest(run_id="r2"))
    asked = []
    for least in (5, 6):
        changed = settings.model_copy(update={"gate_min_questions": least})
        made = load_step("mine").run(changed, Manifest(run_id="r2", refs={"topic_run_id": 0}))
        assert ("human questions alone" in made.note) is (least == 5)
        assert made.number("by_people") == (least == 5)
        data, validation = load(Path(made.text("training_set_uri")))
        asked.append((set(data.questions), set(validation.queries)))
    for people, everybody in zip(*asked, strict=True):
        assert len(people) == 5
        assert people < everybody


def test_of_a_long_document_the_chunk_that_answers_trains_and_none_of_its_others_is_wrong(
    database_url: str, tmp_path: Path
) -> None:
    settings = load_settings(
        var_dir=tmp_path, database_url=database_url, train_near_negatives=2,
        gate_min_questions=2,
    )  # fmt: skip
    animals, tools = ("walrus", "heron", "gecko", "moth"), ("hammer", "compass", "anvil", "lathe")
    records = [
        Record(f"d{number}", f"Notes {number}", f"The {animal} sleeps by the water.|Use the {tool} with both hands.")
        for number, (animal, tool) in enumerate(zip(animals, tools, strict=True))
    ]
    with connect(database_url, autocommit=True) as conn:
        DocumentRepository(conn).apply_records(
            "s", records, lambda title, text: [("", part) for part in text.split("|")]
        )
        pairs = [(f"How is a {tool} used?", f"d{number}") for number, tool in enumerate(tools)]
        held_out = {text for text, _ in pairs[2:]}
        QuestionRepository(conn).import_judgments(
            "s", pairs, lambda document, text: "unseen_validation" if text in held_out else "train"
        )
    load_step("embed_base").run(settings, Manifest(run_id="r1"))
    assert load_step("sift").run(settings, Manifest(run_id="r1")).counts["placed"] == len(pairs)
    made = load_step("mine").run(settings, Manifest(run_id="r1", refs={"topic_run_id": 0}))
    data, validation = load(Path(made.text("training_set_uri")))
    for question, document in zip(data.questions, data.documents, strict=True):
        assert f"Use the {question.split()[3]} with" in document
    for query, positives in zip(validation.queries, validation.positives, strict=True):
        number = tools.index(query.split()[3])
        right = {validation.documents[place].split("\n")[-1] for place in positives}
        assert right == set(records[number].body.split("|"))
