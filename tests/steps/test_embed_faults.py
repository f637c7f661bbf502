"""Step embed_base by an API that fails in every call: all vectors, and each text in exactly one good reply.

``make soak`` runs 5,000 texts, ``make test`` a fifth of them.
"""

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.fake_embeddings import FAULTS, FakeEmbeddings, planted, tokens

MOST_CHARS = 2000
TOO_LONG = (400, '{"error": {"message": "This model\'s maximum context length is 500 tokens"}}')
KINDS = (*FAULTS, "slow", "numbers")


def fill(conn: Connection, number: int) -> None:
    """Store documents of one chunk each, one in 500 of them longer than the model takes."""
    texts = [f"Pump {row} has {row % 97} valves. " * (120 if row % 500 == 7 else 1 + row % 5) for row in range(number)]
    records = [Record(str(row), "T", text) for row, text in enumerate(texts)]
    DocumentRepository(conn).apply_records("s", records, lambda title, text: [("", text)])


def test_a_fault_in_every_call_ends_with_all_vectors_each_text_paid_once(
    auto: Connection, settings: Settings, soak: bool, table: Callable[[str], None]
) -> None:
    number = 5000 if soak else 1000
    fill(auto, number)
    kinds, met = itertools.cycle(KINDS), Counter[str]()

    def rule(texts: list[str], attempt: int) -> str | tuple[int, str] | None:
        if max(map(len, texts)) > MOST_CHARS:
            met["too long"] += 1
            return TOO_LONG
        kind = None if attempt else next(kinds)
        met[kind or "no fault"] += 1
        return kind

    with FakeEmbeddings(rule=rule, slow_s=4.5) as server:
        by_api = load_settings(
            var_dir=settings.var_dir, database_url=settings.require_database_url(), model="openai:small",
            embed_base_url=server.base_url, llm_timeout_s=3.0,
        )  # fmt: skip
        made = load_step("embed_base").run(by_api, Manifest(run_id="r1"))
    assert made.counts["chunks"] == number
    assert met.keys() == {*KINDS, "too long", "no fault"}
    length = server.paid.pop("length")  # by which the space's dimensions are measured; not booked
    assert (length, set(server.paid.values())) == (1, {1}), "a text was paid for twice"

    stored = dict(auto.execute("SELECT chunk_id, title || E'\\n' || text FROM heal.chunk JOIN heal.document USING "
                               "(document_id)").fetchall())  # fmt: skip
    (space,) = SpaceRepository(auto).list()
    ids, vectors = SpaceRepository(auto).load_chunks(space)
    assert sorted(ids.tolist()) == sorted(stored)
    cut = {text for text in server.paid if text not in stored.values()}
    assert len(cut) == sum(len(text) > MOST_CHARS for text in stored.values()) > 0
    sent = [next((short for short in cut if stored[key].startswith(short)), stored[key]) for key in ids.tolist()]
    assert set(sent) == set(server.paid)
    np.testing.assert_allclose(vectors, planted(sent), atol=1e-6)

    rows = auto.execute("SELECT status, sum(input_tokens), count(*) FROM heal.llm_call GROUP BY 1").fetchall()
    booked = {status: total for status, total, _ in rows}
    assert booked["ok"] == sum(map(tokens, server.paid))
    server.useless.pop("length", None)
    assert booked["invalid"] == sum(tokens(text) * times for text, times in server.useless.items())
    table(
        f"{len(ids)} vectors; {len(server.bodies)} requests: {dict(met)}; texts in good replies {server.paid.total()}, "
        f"each once; in replies that arrived and could not be used {server.useless.total()}, in lost replies "
        f"{server.lost.total()}; heal.llm_call (status, tokens, rows): {rows}"
    )
