"""Readers of a store whose generations are switched: each is a process of its own, and writes down what it was told."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psycopg

from heal_tasks.client.client import Client
from heal_tasks.core.settings import load_settings
from heal_tasks.serve.app import create_app
from tests.serve.published import served

QUESTIONS = ("Which rock comes from volcanoes?", "What has strings?", "What does the heart do?")
PAUSE_S = 0.02
"""Between two reads: eight readers that never rest measure only how busy the processors are."""
NOT_SEARCHABLE = "HEA01"

Reply = tuple[int, int, tuple[tuple[int, float], ...]]
"""The question's number, the generation's, and chunks with their distances."""
Asking = Callable[[psycopg.Connection, int], list[Any]]


@dataclass(frozen=True)
class World:
    """Where the store can be asked."""

    database_url: str
    pooled_url: str  # through a pooler in transaction mode
    service_url: str
    vectors: Path  # folder with the questions' vectors, one file per generation
    stop: Path  # readers end when it is there


@dataclass
class Seen:
    """What one reader saw."""

    replies: Counter[Reply] = field(default_factory=Counter)
    times: list[tuple[float, float]] = field(default_factory=list)  # when a read began, and its seconds
    faults: list[str] = field(default_factory=list)
    asked_again: int = 0  # the generation was retired between its number and the search in it

    def write(self, file: Path) -> None:
        """Store it for the process that compares."""
        replies = [[*reply, count] for reply, count in self.replies.items()]
        file.write_text(json.dumps([replies, self.times, self.faults, self.asked_again]))

    @classmethod
    def load(cls, file: Path) -> "Seen":
        """What a reader has written."""
        replies, times, faults, again = json.loads(file.read_text())
        counted = {(q, g, tuple((c, d) for c, d in hits)): count for q, g, hits, count in replies}
        return cls(Counter(counted), [(at, took) for at, took in times], faults, again)


def find(world: World) -> Asking:
    """Text alone."""
    query = "SELECT chunk_id, distance, generation_id FROM heal.find(%s, 3)"
    return lambda conn, number: conn.execute(query, (QUESTIONS[number],)).fetchall()


def searched(conn: psycopg.Connection, vector: Any, generation_id: int) -> list[Any]:
    """The rows next to a vector in the generation that it was made for."""
    query = "SELECT chunk_id, distance, generation_id FROM heal.search(%s::vector, %s::bigint, 3)"
    return conn.execute(query, (json.dumps([float(value) for value in vector]), generation_id)).fetchall()


def search(world: World) -> Asking:
    """The live generation's number, then a vector of its encoder."""

    def ask(conn: psycopg.Connection, number: int) -> list[Any]:
        row = conn.execute("SELECT generation_id FROM heal.generation_status WHERE state = 'active'").fetchone()
        assert row is not None, "no generation is active"
        return searched(conn, np.load(world.vectors / f"{row[0]}.npy")[number], row[0])

    return ask


def embeddings(world: World) -> Asking:
    """A vector from the service, then SQL."""
    http = httpx2.Client(base_url=world.service_url, timeout=60)

    def ask(conn: psycopg.Connection, number: int) -> list[Any]:
        reply = http.post("/v1/embeddings", json={"model": "heal-active", "input": [QUESTIONS[number]]})
        reply.raise_for_status()
        vector = reply.json()["data"][0]["embedding"]
        return searched(conn, vector, int(reply.headers["x-heal-generation"]))

    return ask


def client(world: World) -> Asking:
    """The client, which follows the switches by itself."""
    made = Client(world.database_url)

    def ask(_: psycopg.Connection, number: int) -> list[Any]:
        hits = made.search(QUESTIONS[number], 3)
        return [(hit.chunk_id, hit.distance, hit.generation_id) for hit in hits]

    return ask


def view(world: World) -> Asking:
    """The view that analysts read: the first three rows, and how near they are to the first."""
    query = """SELECT chunk_id, embedding <=> first_value(embedding) OVER (ORDER BY chunk_id), generation_id
        FROM heal.embedding ORDER BY chunk_id LIMIT 3"""
    return lambda conn, _: conn.execute(query).fetchall()


READERS: dict[str, tuple[Callable[[World], Asking], str]] = {
    "heal.find": (find, "simple"), "heal.find, pooled": (find, "pooled"),
    "heal.search, prepared": (search, "prepared"), "heal.search, pooled": (search, "pooled"),
    "embeddings, prepared": (embeddings, "prepared"), "embeddings, pooled": (embeddings, "pooled"),
    "client": (client, "simple"), "heal.embedding": (view, "prepared"),
}  # fmt: skip


def read(world: World, name: str, file: Path) -> None:
    """Ask one question after the other until told to stop."""
    kind, way = READERS[name]
    seen, ask = Seen(), kind(world)
    with psycopg.connect(world.pooled_url if way == "pooled" else world.database_url, autocommit=True) as conn:
        conn.prepare_threshold = 0 if way == "prepared" else None
        for turn in itertools.count():
            if world.stop.exists():
                break
            number, began = turn % len(QUESTIONS), time.monotonic()
            try:
                hits = ask(conn, number)
            except Exception as fault:
                if isinstance(fault, psycopg.Error) and fault.sqlstate == NOT_SEARCHABLE:
                    seen.asked_again += 1
                else:
                    seen.faults.append(f"{type(fault).__name__}: {fault}"[:300])
                continue
            seen.times.append((began, time.monotonic() - began))
            generations = {generation for *_, generation in hits}
            if len(generations) != 1:
                seen.faults.append(f"rows of generations {sorted(generations)}")
                continue
            seen.replies[number, generations.pop(), tuple((chunk, round(d, 6)) for chunk, d, _ in hits)] += 1
            time.sleep(PAUSE_S)
    seen.write(file)


def serve(values: dict[str, Any], url_file: Path, stop: Path) -> None:
    """The service, until told to stop; its URL is written to a file."""
    with served(create_app(load_settings(**values))) as url:
        url_file.with_suffix(".part").write_text(url)
        url_file.with_suffix(".part").rename(url_file)
        while not stop.exists():
            time.sleep(0.05)
