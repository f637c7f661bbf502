"""All of a store that a run is to leave behind, so that two stores can be compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.lexicon import LexiconRepository
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

TOLERANCE = 2e-3
"""Of a coordinate, a weight, a measure: batches of other texts round otherwise, and vectors are stored as halfvec."""

ROWS = {
    "documents": "SELECT external_id, content_hash, deleted_at IS NULL, acl FROM heal.document ORDER BY 1",
    "files": "SELECT source, path, state FROM heal.source_file ORDER BY 1, 2",
    "quarantine": "SELECT path, line, reason, mended_at IS NULL FROM heal.quarantine ORDER BY 1, 2, 3",
    "chunks": (
        "SELECT document_id, ordinal, content_hash, heading, superseded_at IS NULL FROM heal.chunk "
        "ORDER BY 1, 2, chunk_id"
    ),
    "questions": "SELECT chunk_id, text, writer, split, dropped_by FROM heal.question ORDER BY 1, 2, 3",
    "asked": "SELECT chunk_id, model, questions, dropped FROM heal.chunk_asked ORDER BY 1, 2",
    "maps": "SELECT chunk_id, status, map FROM heal.entity_map ORDER BY 1",
    "labels": (
        "SELECT t.document_id, t.leaf, t.path, t.projected FROM heal.document_topic t "
        "WHERE t.topic_run_id = (SELECT max(topic_run_id) FROM heal.topic_run) ORDER BY 1"
    ),
    "topics": (
        "SELECT topic_id, parent_id, terms FROM heal.topic "
        "WHERE topic_run_id = (SELECT max(topic_run_id) FROM heal.topic_run) ORDER BY 1"
    ),
    "measured": "SELECT run_id, system, question_set, metric, questions FROM heal.evaluation ORDER BY 1, 2, 3, 4",
    "answers": "SELECT content_hash, model, status FROM heal.answer ORDER BY 1, 2",
    "steps": "SELECT run_id, step, shard FROM heal.step_result WHERE finished_at IS NOT NULL ORDER BY 1, 2, 3",
    "runs": "SELECT run_id, route, finished_at IS NULL FROM heal.run ORDER BY 1",
    "live": (
        "SELECT g.state, s.model_uri, g.index_kind FROM heal.generation g JOIN heal.space s USING (space_id) "
        "WHERE g.state IN ('active', 'previous') ORDER BY 1"
    ),
}
VALUES = "SELECT value, low, high FROM heal.evaluation ORDER BY run_id, system, question_set, metric"


@dataclass
class Store:
    """A store by the settings of its pipeline, which a test may change."""

    values: dict[str, Any]

    @property
    def settings(self) -> Settings:
        """The settings of now."""
        return load_settings(**self.values)

    def state(self) -> dict[str, Any]:
        """All that is to be alike in two stores."""
        with connect(self.settings.require_database_url(), autocommit=True) as conn:
            return state_of(conn)


def state_of(conn: Connection) -> dict[str, Any]:
    """Rows by name, and arrays by name."""
    found: dict[str, Any] = {name: conn.execute(query.encode()).fetchall() for name, query in ROWS.items()}
    spaces = SpaceRepository(conn)
    kept = "SELECT model_uri FROM heal.space WHERE to_regclass('heal.' || heal.space_table(space_id)) IS NOT NULL"
    for (uri,) in conn.execute(kept).fetchall():
        space = spaces.find_by_uri(uri)
        assert space is not None
        for kind, load in (("chunks", spaces.load_chunks), ("questions", spaces.load_questions)):
            ids, vectors = load(space)
            found[f"{kind} of {uri}"] = (ids.tolist(), vectors)
    active = GenerationRepository(conn).active()
    if active is not None:
        served = ServedRepository(conn).load_served(active)
        found["served"] = ([served.chunk_ids.tolist(), served.leaves.tolist()], served.vectors)
        lexicon = LexiconRepository(conn).load(active)
        found["lexicon"] = ([lexicon.stems, lexicon.chunks.tolist()], lexicon.vectors * lexicon.weights[:, None])
    values = np.array(conn.execute(VALUES).fetchall(), dtype=np.float64)
    found["values"] = ([], values)
    return found


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What is not alike, in words."""
    unlike = list(wanted.keys() ^ found.keys())
    for name in wanted.keys() & found.keys():
        if isinstance(wanted[name], list):
            if found[name] != wanted[name]:
                extra = [row for row in found[name] if row not in wanted[name]]
                lacking = [row for row in wanted[name] if row not in found[name]]
                unlike.append(f"{name}: more {extra[:3]}, less {lacking[:3]}")
            continue
        (keys, rows), (wanted_keys, wanted_rows) = found[name], wanted[name]
        if keys != wanted_keys or rows.shape != wanted_rows.shape:
            unlike.append(f"{name}: {rows.shape} rows instead of {wanted_rows.shape}, or others")
        elif rows.size and not np.allclose(rows, wanted_rows, atol=TOLERANCE, equal_nan=True):
            unlike.append(f"{name}: off by {np.nanmax(np.abs(rows - wanted_rows)):.4f}")
    return unlike


def leftovers(conn: Connection) -> list[str]:
    """Tables of generations and spaces that nothing knows, and rows of chunks that are gone."""
    tables = conn.execute(
        """SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind = 'r'
        AND c.relname ~ '^(vec|lex|push)_g[0-9]+' AND NOT EXISTS (
            SELECT FROM heal.generation g
            WHERE g.generation_id = substring(c.relname FROM '_g([0-9]+)')::bigint
                AND g.state NOT IN ('failed', 'retired'))
        UNION ALL SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind = 'r'
        AND c.relname ~ '_s[0-9]+$' AND NOT EXISTS (
            SELECT FROM heal.space s WHERE s.space_id = substring(c.relname FROM '_s([0-9]+)$')::bigint)"""
    ).fetchall()
    building = conn.execute(
        "SELECT 'generation ' || generation_id || ' ' || state FROM heal.generation "
        "WHERE state NOT IN ('active', 'previous', 'failed', 'retired')"
    ).fetchall()
    return [name for (name,) in (*tables, *building)]


def unsound(conn: Connection) -> list[str]:
    """What must not be after a run: rows of texts that are gone, live texts without a row, generations half made."""
    active = GenerationRepository(conn).active()
    if active is None:
        return ["nothing is live"]
    health = ServedRepository(conn).health(active)
    found = [f"{name}: {health[name]}" for name in ("superseded", "missing", "orphans") if health[name]]
    counts = conn.execute("SELECT state, count(*) FROM heal.generation GROUP BY state").fetchall()
    found += [f"{count} generations are {state}" for state, count in counts if state in {"building", "ready"}]
    unfinished = conn.execute("SELECT run_id FROM heal.run WHERE run_id = 'afterwards' AND finished_at IS NULL")
    return found + [f"run {run_id} has not ended" for (run_id,) in unfinished]
