"""The outcomes of the gate, end to end: a trained model promoted, a nudge adopted, every candidate refused.

People ask in code words that the base model does not know: each stands for an animal or a tool, and every document is
about one of each. The lexicon is fitted to documents alone here: fitted to questions, too, it knows the code words, and
the base model with it finds every answer.
"""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from heal_tasks.core.settings import load_settings
from heal_tasks.core.types import Split
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.vectors import lexicons
from heal_tasks.store.db import connect
from heal_tasks.store.questions.questions import QuestionRepository
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository
from tests.conftest import fresh_database
from tests.e2e.conftest import SMALL, Deployment

ANIMALS = {
    "walrus": "zorblax", "heron": "quindle", "gecko": "mivort", "badger": "plonket", "otter": "traviq",
    "falcon": "sulmere", "beetle": "gorfane", "lynx": "wexitol", "trout": "kubrano", "moose": "drelphin",
}  # fmt: skip
TOOLS = {
    "hammer": "ferrok", "compass": "ilvant", "anvil": "bostrel", "lathe": "cyntho", "chisel": "jaxmore",
    "pulley": "nerolt", "bellows": "opriva", "trowel": "yundral", "spanner": "hesquin", "plane": "ravotte",
}  # fmt: skip
FORMS = ("{} with a {}", "the {} and its {}", "notes about {} {}", "{} {} instructions")


def documents() -> list[dict[str, Any]]:
    """One document for every pair of an animal and a tool."""
    made = []
    for animal in ANIMALS:
        for tool in TOOLS:
            text = f"The {animal} rests. Keep the {tool} dry and clean."
            made.append({"id": f"{animal}-{tool}", "title": f"Report of the {animal} and the {tool}", "text": text})
    return made


def judgments() -> list[tuple[str, str, Split]]:
    """People's questions in code words with the document that answers each; half of the documents never train."""
    draw, made = random.Random(7), list[tuple[str, str, Split]]()
    for animal, code in ANIMALS.items():
        for tool, other in TOOLS.items():
            unseen = draw.random() < 0.5
            held_out: tuple[Split, Split] = (
                ("unseen_validation", "unseen_test") if unseen else ("seen_validation", "seen_test")
            )
            for number, form in enumerate(FORMS):
                split = "train" if number < 2 and not unseen else held_out[number % 2]
                made.append((form.format(code, other), f"{animal}-{tool}", split))
    return made


@pytest.fixture(scope="module")
def asked(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A store with documents and people's questions, not realigned yet."""
    asked = judgments()
    splits = {text: split for text, _, split in asked}
    # Too few written questions to vote beside 150 of people's.
    changes = SMALL | {"train_max_steps": 40, "train_eval_steps": 40, "train_batch_size": 32, "gate_min_questions": 60}
    changes["train_learning_rate"] = 1.5e-4
    with fresh_database(postgres) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexicons, "QUESTION_WEIGHTS", (0.0,))
        settings = load_settings(var_dir=tmp_path_factory.mktemp("asked"), database_url=url, **changes)
        deployment = Deployment(settings, {})
        deployment.write("first.jsonl", documents())
        deployment.run("documents", force_route="nothing")
        with connect(url, autocommit=True) as conn:
            QuestionRepository(conn).import_judgments(
                settings.sources[0], [(text, name) for text, name, _ in asked], lambda _, text: splits[text]
            )
        yield deployment


def test_a_trained_model_is_promoted_before_an_adopted_nudge(asked: Deployment) -> None:
    asked.run("realign", force_route="realign")
    ((verdict, model_uri),) = query(
        asked,
        "SELECT r.verdict, s.model_uri FROM heal.run r, heal.generation g JOIN heal.space s USING (space_id) "
        "WHERE r.run_id = 'realign' AND g.state = 'active'",
    )
    assert verdict.startswith("answers model + lexicon is promoted over live generation."), verdict
    assert model_uri != asked.settings.model
    quality = {
        name: evaluations(asked, "realign", name)[0].value
        for name in ("base model", "base model + NUDGE + lexicon", "answers model + lexicon")
    }
    assert quality["base model"] + 0.5 < quality["base model + NUDGE + lexicon"] < quality["answers model + lexicon"]


def test_a_second_realignment_is_refused_and_writes_no_vector(asked: Deployment) -> None:
    """Nothing has changed: no candidate can beat the generation that is live."""
    before = vector_tables(asked)
    made = asked.run("again", force_route="realign")
    chosen = next(item for item in made if item.step == "choose")
    assert chosen.number("generation_id") == 0
    assert chosen.note.startswith("No candidate beat the live generation; it stays.")
    assert vector_tables(asked) - before <= {"base_s000003", "question_s000003"}  # the newly trained model's space
    assert made[-1].note.startswith("No candidate beat the live generation")


def query(deployment: Deployment, text: str, *values: Any) -> list[tuple[Any, ...]]:
    with connect(deployment.settings.require_database_url()) as conn:
        return conn.execute(text, values).fetchall()


def vector_tables(deployment: Deployment) -> set[str]:
    """Names of all tables of vectors."""
    names = "SELECT relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace AND relkind = 'r' "
    return {row[0] for row in query(deployment, names + "AND relname ~ '_[gs][0-9]{6}$'")}


def evaluations(deployment: Deployment, run_id: str, system: str) -> list[EvaluationRow]:
    """The evaluation of a system by human questions, nDCG@10."""
    with connect(deployment.settings.require_database_url()) as conn:
        rows = RunRepository(conn).evaluations(run_id)
    return [
        row for row in rows
        if (row.system, row.question_set, row.metric) == (system, "human questions", "ndcg@10")
    ]  # fmt: skip
