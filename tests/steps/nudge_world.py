"""A served generation with a nudge record, for tests of the step nudge_live."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import question_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Question, Split
from heal_tasks.evaluation.ranking import top_k
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.nudge.probe import KEPT
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.probes import choose_probes
from heal_tasks.steps.vectors.spaces import in_order
from heal_tasks.steps.vectors.systems import record_of
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.chunks import LiveChunk, live_chunks
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.contrast_state import ContrastRepository, ContrastState
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from tests.conftest import fresh_database
from tests.store.sample_store import SampleStore, encode

DIMS = 16
RECORD = NudgeRecord("N", 0.4, 0.0, None, 0, 0.0, False)


class World:
    """A served generation with a nudge record, documents, and questions that point near them."""

    def __init__(self, conn: Connection, settings: Settings, documents: int = 60) -> None:
        self._connect(conn, settings)
        self.rng = np.random.default_rng(3)
        self.store.load_many(documents)
        self.made = self.store.generation(dims=DIMS)
        self.space = self.store.space_of(self.made)
        by_split: dict[Split, list[tuple[LiveChunk, str]]] = {}
        for chunk in self.chunks():
            number = int(chunk.text.split()[-1])
            by_split.setdefault("train", []).extend([(chunk, f"a{number}"), (chunk, f"b{number}")])
            # Validation questions, which choose the record, move rows afterwards.
            validation: Split = "unseen_validation" if number % 4 == 0 else "seen_validation"
            by_split.setdefault(validation, []).append((chunk, f"c{number}"))
            # Enough held-out questions to judge by, of documents that train and of others.
            test: Split = "seen_test" if number % 2 else "unseen_test"
            by_split.setdefault(test, []).append((chunk, f"held out {number}"))
        for split, asked in by_split.items():
            self.ask_each(asked, split)
        self.store.publish(self.made)
        self.set_record()
        self.start_probes()
        self.nights = 0

    def _connect(self, conn: Connection, settings: Settings) -> None:
        self.conn, self.settings = conn, settings
        self.store, self.questions = SampleStore(conn), QuestionRepository(conn)

    @contextlib.contextmanager
    def copied(self, server: EmbeddedPostgres) -> Iterator["World"]:
        """The same in a copy of its database, to which there is no connection."""
        with fresh_database(server, self.settings.require_database_url()) as url, connect(url, autocommit=True) as conn:
            made = copy.copy(self)
            made.rng = copy.deepcopy(self.rng)
            made._connect(conn, load_settings(database_url=url))
            yield made

    def set_record(self, **changes: object) -> None:
        """Change the record of the live generation, without moving its rows."""
        record = replace(self.record or RECORD, **changes)  # type: ignore[arg-type]
        self.store.generations.set_fields(self.active.generation_id, nudge=record.to_json())

    def forget_record(self) -> None:
        """Make the live generation one whose rows were not moved."""
        self.store.generations.set_fields(self.active.generation_id, nudge=None)

    @property
    def record(self) -> NudgeRecord | None:
        return record_of(self.active)

    def start_probes(self) -> None:
        """Choose the probes of the live generation anew."""
        chunks, questions = Corpus(self.conn).chunks(None), Corpus(self.conn).questions()
        asked = in_order(questions.question_ids, *self.store.spaces.load_questions(self.space))
        live = self.store.served.load_served(self.active)
        served = in_order(chunks.chunk_ids, live.chunk_ids, live.vectors)
        NudgeState(self.conn, self.active).write_probes(choose_probes(questions, asked, chunks, served))

    def displace(self) -> None:
        """Store a displacement for every second row and levels of half of the questions, as a contrastive plan does."""
        ids = np.array(sorted(chunk.chunk_id for chunk in self.chunks()))[::2]
        vectors = 0.1 * self.rng.standard_normal((len(ids), DIMS)).astype(np.float32)
        asked = self.store.spaces.load_questions(self.space)[0][::2]
        levels = self.rng.uniform(10.0, 20.0, len(asked)).astype(np.float32)
        self.set_record(contrast_steps=3)
        state = ContrastState(ids, vectors, asked, levels, np.ones(len(asked), dtype=np.float32))
        ContrastRepository(self.conn).write(self.active, state)

    def displacements(self) -> dict[int, NDArray[np.float32]]:
        """The stored displacements by chunk id."""
        return dict(zip(*map(list, ContrastRepository(self.conn).of_chunks(self.active)), strict=True))

    def base(self) -> dict[int, NDArray[np.float32]]:
        """The base vectors by chunk id."""
        return dict(zip(*map(list, self.store.spaces.load_chunks(self.space)), strict=True))

    @property
    def active(self) -> Generation:
        active = self.store.generations.active()
        assert active is not None
        return active

    def chunks(self) -> list[LiveChunk]:
        return list(live_chunks(self.store.conn))

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
        self.ask_each([(chunk, text) for text in texts], split, toward, writer)

    def ask_each(
        self,
        asked: Sequence[tuple[LiveChunk, str]],
        split: Split,
        toward: NDArray[np.float32] | None = None,
        writer: str = "llm",
    ) -> None:
        """Store questions about chunks, as ``ask`` does; ``toward`` is for all or for each, shape (1, d) or (n, d)."""
        rows = [
            Question(
                question_id(chunk.chunk_id, writer, text), chunk.chunk_id, text, "", "", "question", writer, "m", "p",
                split,
            )
            for chunk, text in asked
        ]  # fmt: skip
        answers = [
            Asked(chunk.chunk_id, chunk.content_hash, "p", "m", [row], 0)
            for (chunk, _), row in zip(asked, rows, strict=True)
        ]
        self.questions.store("r", answers, [])
        near = encode([chunk.text for chunk, _ in asked], DIMS) if toward is None else toward
        vectors = near + 0.8 * encode([f"noise of {text.lower()}" for _, text in asked], DIMS)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = np.array([row.question_id for row in rows], np.int64)
        self.store.spaces.write_questions(self.space, ids, vectors.astype(np.float32))

    def question_vector(self, text: str) -> NDArray[np.float32]:
        """The vector of a stored question, shape (1, d)."""
        return self.question_vectors([text])

    def question_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of stored questions, one each, shape (n, d)."""
        rows = self.conn.execute(
            f"SELECT q.text, b.embedding FROM heal.question q JOIN heal.question_s{self.space.space_id:06d} b "
            "USING (question_id) WHERE q.text = ANY(%s)",
            (list(texts),),
        ).fetchall()
        found = dict(rows)
        return np.array([found[text].to_numpy() for text in texts], dtype=np.float32)

    def night(self) -> Manifest:
        """Embed new chunks and run the step."""
        self.nights += 1
        self.store.embed(self.space)
        return load_step("nudge_live").run(self.settings, Manifest(run_id=f"night {self.nights}"))

    def served(self) -> dict[int, NDArray[np.float32]]:
        live = self.store.served.load_served(self.active)
        return dict(zip(live.chunk_ids.tolist(), live.vectors, strict=True))

    def wanted(self) -> dict[int, NDArray[np.float32]]:
        """Every live row turned towards its questions by at most theta, written out row by row."""
        record = self.record
        assert record is not None
        centre = np.zeros(DIMS) if record.centre is None else record.centre
        rows = self.conn.execute(
            "SELECT m.chunk_id, lower(q.text), b.embedding FROM heal.question q "
            "JOIN heal.moved_chunk m USING (question_id) JOIN heal.chunk c ON c.chunk_id = m.chunk_id "
            f"JOIN heal.question_s{self.space.space_id:06d} b USING (question_id) "
            "WHERE q.split NOT LIKE '%%_test' AND c.superseded_at IS NULL AND q.dropped_by IS NULL "
            "AND (q.writer = 'human' OR NOT %s)",
            (record.by_people,),
        ).fetchall()
        by_text: dict[str, set[int]] = {}
        for chunk_id, text, _ in rows:
            by_text.setdefault(text, set()).add(chunk_id)
        made, displacements = {}, self.displacements()
        for chunk in self.chunks():
            d = encode([chunk.text], DIMS)[0].astype(np.float64)
            own = {text: vector for chunk_id, text, vector in rows if chunk_id == chunk.chunk_id}
            G = sum(
                (
                    (vector.to_numpy() - centre) / len(by_text[text]) ** (1 - record.answer_count_exponent)
                    for text, vector in own.items()
                ),
                displacements.get(chunk.chunk_id, np.zeros(DIMS)),
            )
            turned = d
            if own:
                residual = G - (G @ d) * d
                angle = min(record.theta, np.arctan2(np.linalg.norm(residual), G @ d + record.prior))
                turned = np.cos(angle) * d + np.sin(angle) * residual / np.linalg.norm(residual)
            made[chunk.chunk_id] = turned.astype(np.float32)
        return made

    def check(self) -> None:
        """The served rows and the probes' first ten places equal a computation of all rows."""
        served, wanted = self.served(), self.wanted()
        assert served.keys() == wanted.keys()
        for chunk_id, vector in wanted.items():
            np.testing.assert_allclose(served[chunk_id], vector, atol=1e-6)
        probes = NudgeState(self.conn, self.active).probes(KEPT)
        ids = np.array(sorted(served))
        ranked, _ = top_k(probes.vectors, np.array([served[key] for key in ids.tolist()]), 10)
        np.testing.assert_array_equal(probes.chunk_ids[:, :10], ids[ranked])
