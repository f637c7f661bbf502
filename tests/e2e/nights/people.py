"""People who search: what they ask in words of their own, what they click, and how well they are served.

They have names for animals and tools that no document and no model knows. What is measured is never told to anybody:
questions in another form than those that people give feedback on.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heal_tasks.evaluation.bootstrap import Interval, mean_interval
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.search import find_by_text, hybrid_search, search
from heal_tasks.store.questions.feedback import record_feedback
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.e2e.nights.checks import Encoders
from tests.e2e.nights.inbox import ANIMALS, TOOLS, Inbox
from tests.e2e.test_outcomes import FORMS

HELD_OUT, *TOLD = FORMS
RESULTS = 10


class Quality(NamedTuple):
    """nDCG@10 of the base model by its vectors; of what is served by vector, by encoder and words, and by text."""

    base: Interval
    by_vector: float
    by_encoder: float
    by_text: float


def click(conn: Connection, inbox: Inbox, draw: random.Random, questions: int) -> None:
    """Some people ask in their words, and say that the right document answers; one of them is wrong at times."""
    chunks = dict(conn.execute(
        "SELECT d.body, min(chunk_id) FROM heal.chunk JOIN heal.document d USING (document_id) "
        "WHERE superseded_at IS NULL GROUP BY 1"
    ))  # fmt: skip
    there = [text for text in inbox.stored.values() if text.body in chunks]
    for text in draw.sample(there, questions):
        asked = draw.choice(TOLD).format(*coded(text.about))
        for voter in draw.sample(("ann", "bob", "cem", "dan"), draw.choice((1, 2, 2, 2, 3))):
            record_feedback(conn, asked, chunks[text.body], draw.random() < 0.95, voter)


def coded(about: tuple[str, str]) -> tuple[str, str]:
    """The people's names for an animal and a tool."""
    return ANIMALS[about[0]], TOOLS[about[1]]


def measure(
    conn: Connection, encoders: Encoders, inbox: Inbox, active: Generation, base_uri: str, seed: int
) -> Quality:
    """How well held-out questions find their documents, half of them in the documents' words, half in the people's."""
    texts = {text.body: text for text in inbox.stored.values()}
    asked = sorted({text.about: text for text in texts.values()}.values(), key=lambda text: text.about)
    pairs = [text.about for text in asked for _ in (0, 1)]
    questions = [HELD_OUT.format(*about) for text in asked for about in (text.about, coded(text.about))]
    bodies = list(texts)
    chunks = encoders.encode(base_uri, [embedding_text(text.title, text.body) for text in texts.values()])
    scores = encoders.encode(base_uri, questions, "query") @ chunks.T
    order = np.argsort(-scores, axis=1)[:, :RESULTS]

    def ranked(found: Callable[[int], list[str]]) -> NDArray[np.float64]:
        return np.array([_ndcg([texts[body].about if body in texts else None for body in found(number)], pairs[number])
                         for number in range(len(questions))])  # fmt: skip

    uri = SpaceRepository(conn).get(active.space_id).model_uri
    vectors = encoders.encode(uri, questions, "query")
    documents = np.repeat(np.arange(len(asked)), 2)
    return Quality(
        mean_interval(ranked(lambda number: [bodies[place] for place in order[number]]), seed=seed, groups=documents),
        float(ranked(lambda number: [
            hit.text for hit in search(conn, vectors[number], active.generation_id, RESULTS)
        ]).mean()),
        float(ranked(lambda number: [
            hit.text for hit in hybrid_search(conn, questions[number], vectors[number], active.generation_id, RESULTS)
        ]).mean()),
        float(ranked(lambda number: [hit.text for hit in find_by_text(conn, questions[number], RESULTS)]).mean()),
    )  # fmt: skip


def _ndcg(found: list[tuple[str, str] | None], wanted: tuple[str, str]) -> float:
    return 1 / np.log2(2 + found.index(wanted)) if wanted in found else 0.0
