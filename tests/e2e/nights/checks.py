"""What must be true of the store after every night, looked up without the code that brought it about."""

import gc
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.settings import Settings
from heal_tasks.nudge.apply import recompute
from heal_tasks.nudge.contrast import Displacements
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.vectors.systems import record_of
from heal_tasks.store.db import Connection, scalar
from heal_tasks.store.generations.contrast_state import ContrastRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.training.encoder import Encoder
from tests.e2e.nights.inbox import MARK, Inbox
from tests.e2e.store_state import TOLERANCE, leftovers, unsound

SAMPLE = 24
"""Texts that are encoded again every night."""
SAME_TEXT = 0.998
"""Least cosine of two vectors of one text: batches of other texts round otherwise in bfloat16. The cosine of a text
with its next version is below .99."""


@dataclass
class Encoders:
    """Models by their URI, and the vectors that they gave."""

    settings: Settings
    _loaded: dict[str, Encoder] = field(default_factory=dict)
    _known: dict[tuple[str, str, str], NDArray[np.float32]] = field(default_factory=dict)

    def encode(self, uri: str, texts: list[str], role: str = "document") -> NDArray[np.float32]:
        """Unit vectors of texts, shape (n, d)."""
        new = [text for text in dict.fromkeys(texts) if (uri, role, text) not in self._known]
        if new:
            if uri not in self._loaded:  # one at a time: a night has another model than the night before
                self._loaded = {uri: Encoder(artifact_store(self.settings).model_path(uri), device="cpu", dtype="auto")}
                self._known = {key: value for key, value in self._known.items() if not key[0].startswith("/")}
            vectors = self._loaded[uri].encode(new, role=role)  # type: ignore[arg-type]
            self._known.update({(uri, role, text): vector for text, vector in zip(new, vectors, strict=True)})
        return np.stack([self._known[uri, role, text] for text in texts])


def documents(conn: Connection, inbox: Inbox) -> list[str]:
    """Documents and chunks of the store that are not those of the inbox."""
    wanted = {
        (key.source, key.external_id): (
            inbox.id_of(key), text.path, text.title, text.body, sha256_hex(text.title, text.body),
        )
        for key, text in inbox.stored.items()
    }  # fmt: skip
    rows = conn.execute(
        "SELECT source, external_id, document_id, path, title, body, content_hash FROM heal.document "
        "WHERE deleted_at IS NULL"
    ).fetchall()
    found = {(row[0], row[1]): row[2:] for row in rows}
    faults = [f"document {key}: {found.get(key)} instead of {wanted.get(key)}"
              for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)]  # fmt: skip
    chunks = Counter(conn.execute(
        "SELECT d.title, c.text FROM heal.chunk c JOIN heal.document d USING (document_id) WHERE superseded_at IS NULL"
    ))  # fmt: skip
    texts = Counter({(text.title, text.body) for text in inbox.stored.values()})
    if chunks != texts:
        faults.append(f"chunks: more {list((chunks - texts).items())[:2]}, less {list((texts - chunks).items())[:2]}")
    return faults


def marks(conn: Connection, folder: Path, allowed: set[str], changed: set[str]) -> list[str]:
    """Places that hold a text, a part of it or a question about it although no document has it any more.

    Training sets may hold a text that was ``changed``.
    """
    faults = []
    names = conn.execute(
        "SELECT c.relname, array_agg(a.attname::text) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped "
        "AND a.atttypid::regtype::text NOT IN ('vector', 'halfvec', 'vector[]', 'real[]') GROUP BY 1"
    ).fetchall()
    for table, columns in names:
        query = sql.SQL("SELECT DISTINCT m[1] FROM heal.{}, regexp_matches(concat_ws(' ', {}), {}, 'g') m").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns)), f"({MARK.pattern})"
        )
        if gone := {mark for (mark,) in conn.execute(query)} - allowed:
            faults.append(f"table {table} has {len(gone)} texts that are gone: {sorted(gone)[:3]}")
    for path in files_below(folder):
        if gone := {mark.decode() for mark in re.findall(MARK.pattern.encode(), path.read_bytes())} - allowed:
            if "training_sets" in path.parts and gone <= changed:
                continue
            faults.append(f"{path.relative_to(folder)} has {len(gone)} texts that are gone: {sorted(gone)[:3]}")
    return faults


def vectors(conn: Connection, encoders: Encoders, active: Generation, sample: Iterable[int]) -> list[str]:
    """Stored vectors that are not those of their texts, and served ones that no record explains."""
    faults, spaces = list[str](), SpaceRepository(conn)
    space = spaces.get(active.space_id)
    rows = conn.execute(
        "SELECT c.chunk_id, d.title, c.text FROM heal.chunk c JOIN heal.document d USING (document_id) "
        "WHERE c.superseded_at IS NULL ORDER BY 1"
    ).fetchall()
    ids, base = spaces.load_chunks(space)
    places = {int(key): place for place, key in enumerate(ids)}
    chosen = [rows[number % len(rows)] for number in sample]
    again = encoders.encode(space.model_uri, [embedding_text(title, text) for _, title, text in chosen])
    for (chunk, title, _), vector in zip(chosen, again, strict=True):
        stored = base[places[chunk]]
        cosine = float(stored @ vector / np.linalg.norm(stored))
        if cosine < SAME_TEXT:
            faults.append(f"space {space.space_id}: the vector of {title} is not that of its text ({cosine:.4f})")
    gone = set(places) - {row[0] for row in rows}
    if gone:
        faults.append(f"space {space.space_id} has {len(gone)} vectors of texts that are gone")
    served, state, record = ServedRepository(conn).load_served(active), NudgeState(conn, active), record_of(active)
    fixed = np.setdiff1d(served.chunk_ids, state.touched())  # the others wait for a night that can take them
    wanted = base[[places[int(key)] for key in fixed]]
    if record:
        moved = state.rows(fixed)
        kept = Displacements(*ContrastRepository(conn).of_chunks(active, fixed)) if record.plan.contrast_steps else None
        shift = kept.of(moved.chunk_ids) if kept else None
        wanted = recompute(moved.base, moved.questions, moved.answers, moved.shares, record, shift)
    here = served.vectors[np.searchsorted(served.chunk_ids, fixed)]
    off = np.abs(here - wanted).max(axis=1, initial=0)
    if (off > TOLERANCE).any():
        faults.append(f"{int((off > TOLERANCE).sum())} served vectors are off by up to {off.max():.4f}")
    return faults


def soundness(conn: Connection, *, complete: bool) -> list[str]:
    """Generations and tables that must not be; after a night that ended well also rows too few or too many."""
    active = conn.execute("SELECT count(*) FROM heal.generation WHERE state = 'active'").fetchall()
    faults = [] if active == [(1,)] else [f"{active[0][0]} generations are active"]
    found = unsound(conn) + leftovers(conn)
    return faults + [fault for fault in found if complete or not fault.startswith(("missing", "superseded"))]


def live(conn: Connection) -> Generation:
    """The live generation."""
    active = GenerationRepository(conn).active()
    assert active is not None
    return active


def files_below(folder: Path) -> list[Path]:
    """All files of the state folder but its inbox."""
    return [path for path in folder.rglob("*") if path.is_file() and "inbox" not in path.relative_to(folder).parts]


def size_mb(conn: Connection, folder: Path) -> tuple[float, float]:
    """MB of the files and of the database, after what autovacuum does by itself elsewhere."""
    conn.execute("VACUUM")
    database = scalar(conn, "SELECT pg_database_size(current_database())")
    return sum(path.stat().st_size for path in files_below(folder)) / 1e6, int(str(database)) / 1e6


def memory_mb() -> float:
    """Resident memory of this process."""
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 1e6


def connections(conn: Connection) -> int:
    """Connections to the database but this one."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return int(str(scalar(conn, query)))
