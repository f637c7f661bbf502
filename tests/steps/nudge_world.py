"""A served generation with a budget, for tests of the short nudge path."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import question_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Question, Split
from heal_tasks.evaluation.ranking import top_k
from heal_tasks.nudge.probe import KEPT
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.probes import start_probes
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.reading import LiveChunk
from heal_tasks.store.generations.contrast_state import KeptPushes, PushRepository
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from tests.store.spaces import Space, encode

DIMS = 16


class World:
    """A served generation with a budget, documents and questions that point near them."""

    def __init__(self, conn: Connection, settings: Settings, documents: int = 60) -> None:
        self.conn, self.settings = conn, settings
        self.space, self.questions = Space(conn), QuestionRepository(conn)
        self.rng = np.random.default_rng(3)
        self.space.load_many(documents)
        self.made = self.space.generation(dims=DIMS)
        for chunk in self.chunks():
            number = int(chunk.text.split()[-1])
            self.ask(chunk, [f"a{number}", f"b{number}"], "train")
            # What has chosen the budget moves rows afterwards.
            self.ask(chunk, [f"c{number}"], "unseen_validation" if number % 4 == 0 else "seen_validation")
            # Enough held-out questions to judge by, of documents that train and of others.
            self.ask(chunk, [f"held out {number}"], "seen_test" if number % 2 else "unseen_test")
        self.space.publish(self.made)
        self.set_budget(0.4)
        start_probes(conn, self.active)
        self.nights = 0

    def set_budget(
        self, theta: float, prior: float = 0.0, centre: NDArray[np.float32] | None = None, many: float = 0.0
    ) -> None:
        self.theta, self.prior, self.centre = theta, prior, np.zeros(DIMS) if centre is None else centre
        self.many = many
        self.space.generations.set_fields(
            self.made.generation_id, nudge_variant="N", nudge_theta=theta, nudge_prior=prior, nudge_centre=centre,
            nudge_many=many,
        )  # fmt: skip

    def push(self) -> None:
        """Keep a push for every second row, and levels of half of the questions, as a contrastive plan does for all."""
        ids = np.array(sorted(chunk.chunk_id for chunk in self.chunks()))[::2]
        vectors = 0.1 * self.rng.standard_normal((len(ids), DIMS)).astype(np.float32)
        asked = self.space.vectors.load_questions(self.made)[0][::2]
        levels = self.rng.uniform(10.0, 20.0, len(asked)).astype(np.float32)
        self.space.generations.set_fields(self.made.generation_id, nudge_contrast=3)
        PushRepository(self.conn).write(
            self.made, KeptPushes(ids, vectors, asked, levels, np.ones(len(asked), dtype=np.float32))
        )

    @property
    def active(self) -> Generation:
        active = self.space.generations.active()
        assert active is not None
        return active

    def chunks(self) -> list[LiveChunk]:
        return list(self.space.documents.live_chunks())

    def chunk(self, text: str) -> LiveChunk:
        return next(chunk for chunk in self.chunks() if chunk.text == text)

    def ask(
        self,
        chunk: LiveChunk,
        texts: Sequence[str],
        split: Split,
        toward: NDArray[np.float32] | None = None,
        writer: str = "llm",
    ) -> None:
        """Store questions, with vectors near their chunk's or near another one."""
        rows = [
            Question(
                question_id(chunk.chunk_id, writer, text),
                chunk.chunk_id,
                text,
                "",
                "",
                "question",
                writer,
                "m",
                "p",
                split,
            )
            for text in texts
        ]
        self.questions.store("r", [Asked(chunk.chunk_id, chunk.content_hash, "p", "m", rows, 0)], [])
        near = encode([chunk.text], DIMS) if toward is None else toward
        vectors = near + 0.8 * encode([f"noise of {text.lower()}" for text in texts], DIMS)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = np.array([row.question_id for row in rows], np.int64)
        self.space.vectors.write_questions(self.made, ids, vectors.astype(np.float32))

    def question_vector(self, text: str) -> NDArray[np.float32]:
        """The vector of a stored question, shape (1, d)."""
        row = self.conn.execute(
            f"SELECT b.embedding FROM heal.question q JOIN heal.question_g{self.made.generation_id:06d} b "
            "USING (question_id) WHERE q.text = %s",
            (text,),
        ).fetchone()
        assert row is not None
        return row[0].to_numpy()[None].astype(np.float32)

    def night(self) -> Manifest:
        """Embed what is new, and run the step."""
        self.nights += 1
        self.space.embed(self.active)
        return load_step("nudge_live").run(self.settings, Manifest(run_id=f"night {self.nights}"))

    def served(self) -> dict[int, NDArray[np.float32]]:
        live = self.space.vectors.load_served(self.active)
        return dict(zip(live.chunk_ids.tolist(), live.vectors, strict=True))

    def wanted(self) -> dict[int, NDArray[np.float32]]:
        """Every live row turned towards its questions by at most the budget, written out row by row."""
        rows = self.conn.execute(
            f"SELECT q.chunk_id, lower(q.text), b.embedding FROM heal.question q JOIN heal.chunk c USING (chunk_id) "
            f"JOIN heal.question_g{self.made.generation_id:06d} b USING (question_id) "
            "WHERE q.split NOT LIKE '%%_test' AND c.superseded_at IS NULL AND (q.writer = 'human' OR NOT %s)",
            (self.active.nudge_by_people,),
        ).fetchall()
        by_text: dict[str, set[int]] = {}
        for chunk_id, text, _ in rows:
            by_text.setdefault(text, set()).add(chunk_id)
        made, pushes = {}, dict(zip(*map(list, PushRepository(self.conn).of_chunks(self.active)), strict=True))
        for chunk in self.chunks():
            d = encode([chunk.text], DIMS)[0].astype(np.float64)
            own = {text: vector for chunk_id, text, vector in rows if chunk_id == chunk.chunk_id}
            G = sum(
                (
                    (vector.to_numpy() - self.centre) / len(by_text[text]) ** (1 - self.many)
                    for text, vector in own.items()
                ),
                pushes.get(chunk.chunk_id, np.zeros(DIMS)),
            )
            turned = d
            if own:
                residual = G - (G @ d) * d
                angle = min(self.theta, np.arctan2(np.linalg.norm(residual), G @ d + self.prior))
                turned = np.cos(angle) * d + np.sin(angle) * residual / np.linalg.norm(residual)
            made[chunk.chunk_id] = turned.astype(np.float32)
        return made

    def check(self) -> None:
        """What is served is what a computation of all rows gives, and so are the probes' first ten places."""
        served, wanted = self.served(), self.wanted()
        assert served.keys() == wanted.keys()
        for chunk_id, vector in wanted.items():
            np.testing.assert_allclose(served[chunk_id], vector, atol=1e-6)
        probes = NudgeState(self.conn, self.active).probes(KEPT)
        ids = np.array(sorted(served))
        ranked, _ = top_k(probes.vectors, np.array([served[key] for key in ids.tolist()]), 10)
        np.testing.assert_array_equal(probes.chunk_ids[:, :10], ids[ranked])
