"""Weights of a lexicon: chosen by human validation questions, else constants; a lexicon that loses is refused."""

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Split
from heal_tasks.lexicon.record import LEXICON_WEIGHT, WORDS_WEIGHT, LexiconRecord
from heal_tasks.nudge.nudge import NudgeResult
from heal_tasks.nudge.plan import Plan
from heal_tasks.nudge.questions import QuestionSet
from heal_tasks.steps.quality.scoring import BY_TEXT, judged, quality
from heal_tasks.steps.vectors import lexicons
from heal_tasks.steps.vectors import moves as nudging
from heal_tasks.steps.vectors.lexicons import LLM_QUESTION_WEIGHT, LexiconFitter
from heal_tasks.store.db import Connection
from tests.steps.lexicon_world import WORDS, LexiconWorld, vector_of

PEOPLE = [f"d{number}" for number in range(36)]


@pytest.fixture
def world(auto: Connection, settings: Settings) -> LexiconWorld:
    return LexiconWorld(auto, settings)


def found(world: LexiconWorld, **changes: object) -> tuple[LexiconRecord, str]:
    """The record that is found for the base model's vectors, and the choice in words."""
    world.settings = world.settings.model_copy(update=changes)
    systems = world.systems()
    plain = systems.plain("base model", world.space)
    split = systems.lexicons.choice_split(learnt=False)
    search, note = systems.lexicons.find(plain, plain.chunks, plain.chunks, split)
    return search.record, note


def ask_in_other_words(world: LexiconWorld) -> None:
    """People's questions in words that other documents have, and their answers lack."""
    slang = {name: f"slang{name}" for name in PEOPLE}
    world.add({f"other{name}": f"{slang[name]} {world.words(7)}" for name in PEOPLE})
    splits: tuple[Split, ...] = ("train", "train", "seen_validation", "seen_test")
    for number, split in enumerate(splits):
        asked = [(name, f"{slang[name]} {world.texts[name].split()[0]} n{number}") for name in PEOPLE]
        world.ask_each(asked, split, "human", right=0.2)


def test_questions_in_other_words_teach_the_lexicon_where_their_answers_are(world: LexiconWorld) -> None:
    ask_in_other_words(world)
    record, note = found(world)
    assert record.by_people
    assert record.question_weight > 0
    assert record.lexicon_weight > 0
    assert note.endswith(f"answered questions {record.question_weight:g}, chosen by human questions")
    systems = world.systems()
    plain, stems = systems.plain("base model", world.space), systems.lexicons.stems
    test = judged(systems.questions, systems.chunks, systems.questions.in_splits("seen_test"))
    values = {}
    for weight in (0.0, record.question_weight):
        used = replace(record, question_weight=weight)
        search = stems.search(used, systems.lexicons.fit(used, plain.chunks, plain.chunks))
        values[weight] = quality(replace(plain, lexical=search), test, systems.chunks, BY_TEXT).mean()
    assert values[record.question_weight] > values[0.0] + 0.1


def test_the_stem_vectors_of_tried_weights_are_not_kept(world: LexiconWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, made, most = LexiconFitter._fit, list[weakref.ref[Any]](), list[int]()

    def counted(*values: Any, **named: Any) -> Any:
        most.append(sum(item() is not None for item in made))
        lexicon = fit(*values, **named)
        made.append(weakref.ref(lexicon.vectors))
        return lexicon

    monkeypatch.setattr(LexiconFitter, "_fit", counted)
    ask_in_other_words(world)
    assert found(world)[0].by_people
    assert len(made) > 4
    assert max(most) <= 2, "the first, and the one before, from which the next one starts"


def test_too_few_human_questions_choose_nothing(world: LexiconWorld) -> None:
    ask_in_other_words(world)
    record, note = found(world, gate_min_questions=len(PEOPLE) + 1)
    assert (record.by_people, record.question_weight, record.lexicon_weight) == (False, 0, LEXICON_WEIGHT)
    assert note.endswith("by default")


def test_people_who_asked_nothing_that_may_train_teach_nothing(world: LexiconWorld) -> None:
    world.ask_of_all("seen_validation", "human", names=PEOPLE)
    record, _ = found(world)
    assert record.by_people
    assert record.lexicon_weight > 0


def mislead(world: LexiconWorld, names: list[str], writer: str) -> None:
    """Questions about documents that nobody else asked about, with the words of another one; the encoder is right."""
    texts = [" ".join(world.texts[other].split()[:4]) for other in names[1:] + names[:1]]
    asked = list(zip(names, texts, strict=True))
    vectors = [vector_of(world.texts[name]) + 0.1 * vector_of(text) for name, text in asked]
    world.ask_each(asked, "unseen_validation", writer, vectors=vectors)


@pytest.mark.parametrize("writer", ["human", "llm"])
def test_a_weight_that_loses_on_unseen_documents_is_refused(world: LexiconWorld, writer: str) -> None:
    unseen = [f"d{number}" for number in range(40, 80)]
    world.ask_of_all("seen_validation", "human", names=PEOPLE, right=0.1)
    mislead(world, unseen, writer)
    free, _ = found(world, gate_epsilon=1.0)
    guarded, _ = found(world, gate_epsilon=0.005)
    assert free.lexicon_weight > guarded.lexicon_weight
    systems = world.systems()
    plain, stems = systems.plain("base model", world.space), systems.lexicons.stems
    key = judged(systems.questions, systems.chunks, systems.questions.in_splits("unseen_validation"))
    before = quality(plain, key, systems.chunks).mean()
    for record, loses in ((guarded, False), (free, True)):
        search = stems.search(record, systems.lexicons.fit(record, plain.chunks, plain.chunks))
        after = quality(replace(plain, lexical=search), key, systems.chunks).mean()
        assert bool(after < before - 0.005) is loses


def test_generated_questions_take_the_constants(world: LexiconWorld) -> None:
    world.ask_of_all("unseen_validation", "extractive")
    world.ask_of_all("train", "extractive")
    record, note = found(world)
    assert record == LexiconRecord(
        question_weight=0, lexicon_weight=LEXICON_WEIGHT, words_weight=WORDS_WEIGHT, chunks=len(world.texts)
    )
    assert note == "lexicon of 60 stems: weight 0.75 beside the encoder, words 0.1, answered questions 0, by default"
    world.ask_of_all("train", "llm", names=PEOPLE)
    assert found(world)[0].question_weight == LLM_QUESTION_WEIGHT


def test_generated_questions_refuse_a_lexicon_that_loses(world: LexiconWorld) -> None:
    mislead(world, list(world.texts), "extractive")
    record, note = found(world)
    assert (record.by_people, record.lexicon_weight, record.words_weight) == (False, 0, WORDS_WEIGHT)
    assert "weight 0 beside the encoder" in note


def test_only_questions_that_may_move_rows_teach(world: LexiconWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ask_of_all("train", "llm")
    world.ask_of_all("seen_test", "llm")
    world.ask_of_all("train", "extractive")
    seen: list[int] = []
    fit = lexicons.fit_lexicon

    def counting(*given: object, **named: object) -> object:
        seen.append(0 if named["questions"] is None else named["questions"].counts.shape[0])  # type: ignore[attr-defined]
        return fit(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(lexicons, "fit_lexicon", counting)
    found(world)
    assert seen == [len(world.texts)]
    vectors = np.zeros((len(world.texts), 4), dtype=np.float32)
    documents_alone = world.systems().lexicons.fit(LexiconRecord(), vectors, vectors)
    assert np.count_nonzero(documents_alone.weights) == WORDS


@pytest.mark.parametrize("writer", ["llm", "extractive", "human"])
def test_a_language_models_questions_alone_judge_moves_with_the_lexicon_and_by_loss(
    world: LexiconWorld, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    for split in ("train", "seen_validation"):
        world.ask_of_all(split, writer)  # type: ignore[arg-type]
    systems, seen, losses = world.systems(), list[QuestionSet](), []
    plain = systems.plain("base model", world.space)
    search = nudging.nudge

    def watched(base: Any, train: QuestionSet, validation: QuestionSet, **options: Any) -> NudgeResult:
        seen.extend((train, validation))
        losses.append(options["max_loss"])
        return search(base, train, validation, **options)

    monkeypatch.setattr(nudging, "nudge", watched)
    system, _ = systems.find_lexicon(plain, None, learnt=False)
    systems.find_moves(system)
    train, validation = (
        judged(systems.questions, systems.chunks, systems.questions.in_splits(split)).rows
        for split in ("train", "seen_validation")
    )
    np.testing.assert_array_equal(seen[0].vectors, plain.questions[train])
    by_encoder, served = plain.questions[validation], system.queries(validation)
    assert np.abs(by_encoder - served).max() > 0.1
    np.testing.assert_array_equal(seen[1].vectors, served if writer == "llm" else by_encoder)
    given = Plan(prior=3.0)
    moved = systems.find_moves(system, given)
    assert losses == ([world.settings.gate_epsilon, np.inf] if writer == "llm" else [None, None])
    if writer == "llm":
        assert moved.record is not None
        assert moved.record.plan == given


def test_few_validation_questions_are_joined_by_training_questions(
    world: LexiconWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask_of_all("train", "human", names=PEOPLE)
    world.ask_of_all("unseen_validation", "human", names=PEOPLE[:5])
    world.ask_of_all("train", "llm")
    both = [(PEOPLE[0], "asked of two"), (PEOPLE[1], "asked of two")]
    for asked, split in zip(both, ("train", "seen_validation"), strict=True):
        world.ask_each([asked], split, "human")  # type: ignore[arg-type]
    systems = world.systems()
    questions, fitter = systems.questions, systems.lexicons
    validates = questions.human & questions.in_splits("seen_validation", "unseen_validation")
    trains = questions.human & questions.in_splits("train") & ~np.isin(questions.texts, questions.texts[validates])
    assert (validates.sum(), trains.sum()) == (6, 36), "what is asked of two documents judges and does not teach"
    # A third is lent, or as many as are missing; none to a model that has learnt them.
    for learnt, wanted, lent in ((False, 1000, 12), (False, 10, 4), (False, 6, 0), (False, 3, 0), (True, 1000, 0)):
        monkeypatch.setattr(lexicons, "MOST_VALIDATION", wanted)
        judging, fitting = fitter.choice_split(learnt=learnt)
        assert not (judging & fitting).any()
        assert (judging | fitting).tolist() == (trains | validates).tolist()
        assert validates[judging].sum() == 6
        assert (judging & trains).sum() == lent
