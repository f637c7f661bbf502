"""Measures a night on the nudge route against the size of the store: time must follow the arrivals, not the store.

Run from the project's root: ``python -m bench.nudge_incremental`` (about 15 minutes with a million rows).

**Input.** Synthetic unit vectors in clusters (384 dimensions), a training question for one row in ten, held-out
questions for the probes; a store of 10,000, 100,000 and 1,000,000 rows in the embedded Postgres, indexed (HNSW), with a
nudge record.

**Measured.** 100 new chunks with a question each, one step ``nudge_live`` for all, five times: CPU seconds of the
step's process, wall seconds including the server's work and the index; and as many rows of the same kind inserted by
hand into the same table, a lower bound for any such path.

**Checked first.** The served rows equal a computation of all rows by the same record to 1e-6, and no other row was
written.
"""

import argparse
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from bench.common import parent_parser, table, versions, write_json
from bench.scratch import scratch_store, store_documents
from heal_tasks.core.errors import HealError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.probes import choose_probes
from heal_tasks.steps.vectors.spaces import in_order
from heal_tasks.steps.vectors.systems import Systems
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.generations.served import Served, ServedRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.store.spaces.vector_tables import copy_rows

DIMS, ARRIVALS, PROBES, NIGHTS = 384, 100, 1000, 5
RECORD = NudgeRecord("N", 0.5, 0.0, None, 0, 0.0, False)
Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class Store:
    """A served generation of planted vectors with a nudge record."""

    def __init__(self, conn: Connection, rows: int) -> None:
        self.conn, self.served, self.spaces = conn, ServedRepository(conn), SpaceRepository(conn)
        self._rng = np.random.default_rng(7)
        self._centres = self._unit(self._rng.normal(size=(200, DIMS)))
        self.space = self.spaces.ensure("none", "none", DIMS)
        self.made = GenerationRepository(conn).create(
            run_id="bench", space=self.space, nudge=RECORD.to_json(), lexicon=LexiconRecord(chunks=rows).to_json()
        )
        GenerationRepository(conn).create_tables(self.made)
        ids = np.arange(rows, dtype=np.int64)
        self.add(ids, held_out=PROBES)
        conn.execute("DELETE FROM heal.nudge_touched")

    def serve(self) -> None:
        """Write the rows as the record moves them, index them, switch to them, and choose the probes."""
        ids, wanted = self.full()
        self.served.write_served(self.made, Served(ids, ids, np.zeros(len(ids), np.int32), wanted))
        generations = GenerationRepository(self.conn)
        build_indexes(self.conn, self.made, memory_mb=4096)
        generations.set_state(self.made.generation_id, "ready")
        generations.activate(self.made.generation_id)
        chunks, questions = Corpus(self.conn).chunks(None), Corpus(self.conn).questions()
        asked = in_order(questions.question_ids, *self.spaces.load_questions(self.space))
        NudgeState(self.conn, self.made).write_probes(choose_probes(questions, asked, chunks, wanted))

    def add(self, ids: Int64Array, held_out: int = 0, every: int = 10) -> None:
        """Documents of one chunk, their base vectors, and questions with vectors for one chunk in ``every``."""
        conn = self.conn
        store_documents(conn, [str(number) for number in ids], first=int(ids[0]))
        base = self.vectors_of_documents(len(ids))
        self.spaces.write_chunks(self.space, ids, base)
        asked = np.concatenate([np.arange(0, len(ids), every), self._rng.choice(len(ids), held_out, replace=False)])
        splits = ["train"] * (len(asked) - held_out) + ["seen_test"] * held_out
        question_ids = ids[0] * 2 + np.arange(len(asked))
        columns = [("question_id", "bigint"), ("chunk_id", "bigint")]
        columns += [(name, "text") for name in ("text", "answer", "evidence", "kind", "writer", "model", "prompt_hash")]
        copy_rows(
            conn, sql.Identifier("heal", "question"), [*columns, ("split", "text")],
            (
                (int(key), int(ids[row]), f"q{key}", "", "", "question", "llm", "m", "p", split)
                for key, row, split in zip(question_ids, asked, splits, strict=True)
            ),
        )  # fmt: skip
        self.spaces.write_questions(self.space, question_ids, self._unit(base[asked] + 0.8 * self._noise(len(asked))))

    def full(self) -> tuple[Int64Array, Float32Array]:
        """What a computation of all rows would serve: chunk ids and vectors."""
        systems = Systems(self.conn, load_settings(), None)
        plain = systems.plain("full", self.space)
        moved = systems.apply_record(RECORD, plain)
        plain.chunks[moved.rows] = moved.vectors
        return systems.chunks.chunk_ids, plain.chunks

    def vectors_of_documents(self, rows: int) -> Float32Array:
        """Vectors near one of the centres each."""
        return self._unit(self._centres[self._rng.integers(200, size=rows)] + 0.6 * self._noise(rows))

    def _noise(self, rows: int) -> Float32Array:
        return self._rng.standard_normal((rows, DIMS), dtype=np.float32) / np.float32(np.sqrt(DIMS)) * 2

    @staticmethod
    def _unit(rows: NDArray[Any]) -> Float32Array:
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def bench(url: str, rows: int) -> dict[str, Any]:
    """One size: nights of ``ARRIVALS`` new chunks with a question each."""
    settings = load_settings(database_url=url)
    with connect(url, autocommit=True) as conn:
        store = Store(conn, rows)
        store.serve()
        done = []
        for night in range(NIGHTS):
            new = np.arange(rows + night * ARRIVALS, rows + (night + 1) * ARRIVALS, dtype=np.int64)
            store.add(new, every=1)
            before = _versions(conn, store.made)
            cpu, wall = time.process_time(), time.perf_counter()
            made = load_step("nudge_live").run(settings, Manifest(run_id=f"night {night}"))
            done.append((time.process_time() - cpu, time.perf_counter() - wall))
            after = _versions(conn, store.made)
            if made.counts["rows_added"] != ARRIVALS or before.items() - after.items():
                raise HealError(f"{rows} rows: wrote {made.counts} and rewrote {len(before.items() - after.items())}")
        ids, wanted = store.full()
        live = store.served.load_served(store.made)
        error = float(np.abs(in_order(ids, live.chunk_ids, live.vectors) - wanted).max())
        if error > 1e-6:
            raise HealError(f"{rows} rows: a served row differs by {error} from a computation of all rows")
        floor = _insert_by_hand(conn, store)
    step_cpu, step_wall = (median(values) for values in zip(*done, strict=True))
    return {
        "rows": rows, "step CPU s": step_cpu, "step wall s": step_wall, "same rows by hand, wall s": floor,
        "largest difference": f"{error:.1e}",
    }  # fmt: skip


def _versions(conn: Connection, made: Generation) -> dict[int, str]:
    return dict(conn.execute(sql.SQL("SELECT chunk_id, xmin::text FROM {}").format(made.table("vec"))).fetchall())


def _insert_by_hand(conn: Connection, store: Store) -> float:
    """Median wall seconds of inserting as many vectors into the same indexed table with one statement."""
    taken = []
    for turn in range(NIGHTS):
        # Not rows that are there already: the index takes up an equal vector without linking it.
        rows = store.vectors_of_documents(ARRIVALS)
        start = time.perf_counter()
        with conn.cursor() as cursor:
            cursor.executemany(
                sql.SQL("INSERT INTO {} VALUES (%s, 0, 0, %s)").format(store.made.table("vec")),
                [(-1 - turn * ARRIVALS - number, row) for number, row in enumerate(rows)],
            )
        taken.append(time.perf_counter() - start)
    return median(taken)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes of the store")
    given = parser.parse_args(arguments)
    rows = []
    for size in given.rows:
        with scratch_store() as url:
            rows.append(bench(url, size))
    print(table(rows))
    print(versions())
    write_json(given.json, {"nudge_incremental": rows})


if __name__ == "__main__":
    main()
