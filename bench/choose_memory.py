"""Measures the peak memory and CPU time of the steps choose and publish, on planted vectors.

Run from the project's root: ``python -m bench.choose_memory --rows 1000000`` (about half an hour, mostly loading and
indexing).

**Input.** Synthetic unit vectors in clusters (384 dimensions), texts of 40 words with the frequencies of a language, a
training question for one row in fifty, 1,000 questions for each of the other splits, of six words of their text; two
spaces, as after a training: the base model's, and one that is noisier.

**Measured.** CPU seconds and peak memory of a process that runs one of the steps, the embedded Postgres aside.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg import sql

from bench.common import measure, parent_parser, table, versions, write_json
from bench.scratch import clustered, scratch_store, store_documents
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import load_settings
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import connect
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.store.spaces.vector_tables import copy_rows
from heal_tasks.training.encoder import model_sha256

TRAINED = "models/bench"
SPLITS = ("seen_validation", "unseen_validation", "seen_test", "unseen_test")
HELD_OUT = 1000
WORDS, VOCABULARY = 40, 50_000


def plant(url: str, rows: int) -> None:
    """Documents of one chunk each, questions, and two spaces with their vectors."""
    rng = np.random.default_rng(7)
    settings = load_settings(database_url=url)
    sha256, dims = model_sha256(resolve_model(settings.model)), 384
    train = np.arange(0, rows, 50)
    pools = [train if name.startswith("seen") else np.setdiff1d(np.arange(rows), train) for name in SPLITS]
    asked = np.concatenate([train, *(rng.choice(pool, HELD_OUT) for pool in pools)])
    splits = ["train"] * (len(asked) - HELD_OUT * len(SPLITS)) + [name for name in SPLITS for _ in range(HELD_OUT)]
    ids = np.arange(rows, dtype=np.int64)
    question_ids = np.arange(len(asked), dtype=np.int64)
    texts = [[f"w{word}x" for word in text] for text in rng.zipf(1.2, (rows, WORDS)) % VOCABULARY]
    with connect(url, autocommit=True) as conn:
        store_documents(conn, list(map(" ".join, texts)))
        columns = [("question_id", "int8"), ("chunk_id", "int8")]
        named = ("text", "answer", "evidence", "kind", "writer", "model", "prompt_hash", "split")
        copy_rows(
            conn, sql.Identifier("heal", "question"), [*columns, *((name, "text") for name in named)],
            (
                (int(key), int(row), f"{' '.join(texts[row][:6])} q{key}", "", "", "question", "llm", "m", "p", split)
                for key, row, split in zip(question_ids, asked, splits, strict=True)
            ),
        )  # fmt: skip
        spaces = SpaceRepository(conn)
        for uri, identity, noise in ((settings.model, sha256, 0.5), (TRAINED, "bench", 0.6)):
            space, vectors = spaces.ensure(uri, identity, dims), clustered(rows, dims, noise=noise)
            spaces.write_chunks(space, ids, vectors)
            # Questions of one row lie in one direction from it, so that moving the row towards some helps the others.
            towards, own = np.unique(asked, return_inverse=True)
            near = vectors[asked] + 0.08 * rng.standard_normal((len(towards), dims), dtype=np.float32)[own]
            near += 0.01 * rng.standard_normal((len(asked), dims), dtype=np.float32)
            spaces.write_questions(space, question_ids, near / np.linalg.norm(near, axis=1, keepdims=True))
        conn.execute(
            "INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual) "
            "VALUES ('f', 'u', 1, 1, 1, 1, 0)"
        )


def run_step(url: str, name: str, refs: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Run one step: its refs and its note."""
    made = load_step(name).run(load_settings(database_url=url), Manifest(run_id="bench", refs=refs))
    return made.refs, made.note


def bench(rows: int, steps: Sequence[str]) -> list[dict[str, Any]]:
    """A row of the table for each step."""
    with scratch_store() as url:
        measure(plant, url, rows)
        refs: dict[str, Any] = {"topic_run_id": 1, "answers_model_uri": TRAINED}
        made = []
        for name in steps:
            done = measure(run_step, url, name, refs, threads=2)
            refs |= done.result[0]
            note = done.result[1].split(";")[0]
            made.append(
                {
                    "rows": rows,
                    "step": name,
                    "CPU s": done.cpu_s,
                    "wall s": done.wall_s,
                    "peak MiB": done.peak_mib,
                    "": note,
                }
            )
        return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes of the store")
    parser.add_argument("--steps", nargs="+", default=["choose", "publish"], help="steps to run, in this order")
    given = parser.parse_args(arguments)
    rows = [row for size in given.rows for row in bench(size, given.steps)]
    print(table(rows))
    print(versions())
    write_json(given.json, {"choose_memory": rows})


if __name__ == "__main__":
    main()
