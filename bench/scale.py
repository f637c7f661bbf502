"""Rehearses the pipeline at scale: what every step costs with 10,000, 100,000 and 1,000,000 chunks.

Run from the project's root: ``python -m bench.scale --chunks 100000``. Text and vectors are planted
(``bench.scale_corpus``); nothing is trained, no language model is called. Everything else is the pipeline's own: the
steps run as the DAG runs them, each in a process of its own, with an encoder that plants vectors in place of the model.
One question for fifty chunks trains, a thousand of each other split are held out, written like those of a language
model.

**Stages.** A first realignment (ingest, route, label, embed, lexicon alone, choose, publish), a night on the nudge
route (1,000 documents added, 100 changed, 100 deleted), maintenance, and searches.

**Columns.** Wall seconds and CPU seconds of the step's process and of the server (of *embed*, the encoder's own are
left out); peak memory of the step's processes and, beside it, the server's private memory, without its shared buffers;
size of the database and of the artifacts afterwards. *growth* is the exponent between two sizes, of all CPU seconds.

``--lines`` appends each stage as it ends to a file, and reads what an earlier run has left there.
"""

import argparse
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from bench.common import Measured, measure, parent_parser, table, versions, write_json
from bench.scale_corpus import CHUNK_TOKENS, CHUNKS_PER_DOCUMENT, PlantedEncoder, drop_night, write_documents
from bench.scale_load import load_documents, plant_questions
from bench.scratch import backend_cpu_s, scratch_store, server_cpu_s
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors.systems import Systems
from heal_tasks.store.db import connect, scalar
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

NEW, CHANGED, DELETED = 1000, 100, 100  # documents of a night
SEARCHES, WARM_UP, THREADS, SAMPLED_S = 200, 20, 2, 0.5
RECALL_TARGET = 0.5
"""Planted vectors are harder for a graph than a model's: of 100,000 rows .86 are found at ef_search 1000."""
SEARCH, FIND = "SELECT * FROM heal.search(%s, %s::bigint, 10)", "SELECT * FROM heal.find(%s)"
Json = dict[str, Any]


def run_step(given: Json, name: str, manifest: Json) -> tuple[Json, float]:
    """Run one step: its manifest, and the CPU seconds of the encoder within."""
    spent, encoder = [0.0], PlantedEncoder() if name.startswith("embed") else None

    class Timed:
        def encode(self, texts: Sequence[str], **options: Any) -> Any:
            start = time.process_time()
            assert encoder is not None
            made = encoder.encode(texts, **options)
            spent[0] += time.process_time() - start
            return made

    with patch("heal_tasks.steps.vectors.filling.load_encoder", lambda *_: Timed()):
        return load_step(name).run(load_settings(**given), Manifest(**manifest)).to_json(), spent[0]


def lexicon_alone(given: Json, topic_run_id: int) -> int:
    """Read the stems of all chunks and fit one lexicon, as ``choose`` and ``publish`` do; the number of stems."""
    settings = load_settings(**given)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        systems = Systems(conn, settings, topic_run_id)
        space = SpaceRepository(conn).find_by_uri(settings.model_uri)
        assert space is not None
        plain = systems.plain("plain", space)
        systems.lexicons.fit(LexiconRecord(), plain.chunks, plain.chunks)
        return len(systems.lexicons.stems.stems)


def search_all(given: Json) -> Json:
    """Milliseconds of searches by vector and by text: p50 and p95 of the clock, and the server's median CPU."""
    settings, encoder = load_settings(**given), PlantedEncoder()
    with connect(settings.require_database_url(), autocommit=True) as conn:
        active = GenerationRepository(conn).active()
        assert active is not None
        texts = [
            text for (text,) in conn.execute("SELECT text FROM heal.question WHERE split LIKE '%%test' ORDER BY text")
        ][: SEARCHES + WARM_UP]
        vectors, found = encoder.encode(texts, role="query"), dict[str, Any]()
        conn.prepare_threshold = 0
        for name, statement in (("search", SEARCH), ("find", FIND)):
            wall, cpu = list[float](), list[float]()
            for text, vector in zip(texts, vectors, strict=True):
                used, start = backend_cpu_s(conn), time.perf_counter()
                values = (vector, active.generation_id) if name == "search" else (text,)
                rows = conn.execute(statement, values).fetchall()
                wall.append(1000 * (time.perf_counter() - start))
                cpu.append(1000 * (backend_cpu_s(conn) - used))
                assert len(rows) == 10
            wall, cpu = wall[WARM_UP:], cpu[WARM_UP:]
            found |= {f"{name} p50": float(np.median(wall)), f"{name} p95": float(np.percentile(wall, 95))}
            found[f"{name} CPU p50"] = float(np.median(cpu))
    return found


class Rehearsal:
    """The stages of one size, on a server of its own; each is a row, told as it ends."""

    def __init__(self, chunks: int, url: str, folder: Path, tell: Callable[[Json], None], copied: bool) -> None:
        self._given: Json = {
            "database_url": url, "var_dir": str(folder), "chunk_tokens": CHUNK_TOKENS, "index_memory_mb": 4096,
            "recall_target": RECALL_TARGET,
        }  # fmt: skip
        self._chunks, self._folder, self._tell, self._copied = chunks, folder, tell, copied
        self._conn = connect(url, autocommit=True)
        postmaster = psutil.Process(self._conn.info.backend_pid).parent()
        assert postmaster is not None
        self._postmaster = postmaster

    def run(self) -> None:
        """All stages."""
        documents = self._chunks // CHUNKS_PER_DOCUMENT
        inbox, aside = self._folder / "inbox", self._folder / "aside.jsonl"
        measure(write_documents, inbox, aside, documents, NEW)
        start = Manifest(run_id="first")
        if self._copied:
            self._stage("copied", load_documents, THREADS)
            RunRepository(self._conn).open_run(start.run_id)
            start = start.next("ingest", refs={"new": documents, "changed": 0, "deleted": 0}, counts={}, note="")
        manifest: Json = start.model_dump(mode="json")
        for name in ("ingest", "route", "label")[self._copied :]:
            manifest = self._step(name, manifest)
        measure(plant_questions, self._given, 0)
        manifest = self._step("embed_base", manifest)
        self._stage("lexicon", lexicon_alone, manifest["refs"]["topic_run_id"])
        for name in ("choose", "publish"):
            manifest = self._step(name, manifest)
        self._stage("ask", search_all)
        drop_night(inbox, aside, NEW, CHANGED, DELETED)
        self._given["force_route"] = "nudge"
        manifest = Manifest(run_id="night").model_dump(mode="json")
        for name in ("ingest", "route", "assign_labels", "", "embed_new", "nudge_live", "maintain"):
            if name:
                manifest = self._step(name, manifest, "night: " if name != "maintain" else "")
            else:
                measure(plant_questions, self._given, documents)
        self._stage("ask after the night", search_all)
        self._conn.close()

    def _step(self, name: str, manifest: Json, before: str = "") -> Json:
        made, _ = self._stage(before + name, run_step, name, manifest)
        return dict(made)

    def _stage(self, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        self._conn.execute("CHECKPOINT")  # the pages of the stage before are not written on this one's account
        server = server_cpu_s(self._conn)
        with self._peaks() as peaks:
            done: Measured[Any] = measure(function, self._given, *arguments, threads=THREADS)
        spent = server_cpu_s(self._conn) - server
        encoder, note, more = 0.0, "", dict[str, Any]()
        if function is run_step:
            encoder, note = done.result[1], done.result[0]["note"]
        elif isinstance(done.result, dict):
            more = done.result
        artifacts = sum(item.stat().st_size for item in (self._folder / "artifacts").rglob("*") if item.is_file())
        self._tell(
            {
                "chunks": self._chunks, "stage": stage, "wall s": done.wall_s - encoder, "CPU s": done.cpu_s - encoder,
                "server CPU s": spent, "peak MiB": max(peaks["process"], done.peak_mib), "server MiB": peaks["server"],
                "database MiB": scalar(self._conn, "SELECT pg_database_size(current_database())") / 2**20,
                "artifacts MiB": artifacts / 2**20, **more, "note": note,
            }
        )  # fmt: skip
        return done.result

    @contextmanager
    def _peaks(self) -> Iterator[dict[str, float]]:
        """Peaks of the resident memory of our child processes, and of the server's memory that is not shared."""
        peaks, stop = {"process": 0.0, "server": 0.0}, threading.Event()

        def sample() -> None:
            while not stop.wait(SAMPLED_S):
                ours = sum(_resident(pid, "VmRSS") for pid in _below(os.getpid()))
                server = self._postmaster.pid
                theirs = sum(_resident(pid, "RssAnon") for pid in (server, *_below(server)))
                peaks["process"], peaks["server"] = max(peaks["process"], ours), max(peaks["server"], theirs)

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            yield peaks
        finally:
            stop.set()
            sampler.join()


def _below(pid: int) -> Iterator[int]:
    """Child processes, and theirs; psutil would look at every process of the machine."""
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        children = list[int]()
        with suppress(OSError):
            children = [int(child) for child in file.read_text().split()]
        for child in children:
            yield child
            yield from _below(child)


def _resident(pid: int, field: str) -> float:
    with suppress(OSError, IndexError, StopIteration):  # it ended this moment
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
    return 0.0


def with_growth(rows: Sequence[Json]) -> list[Json]:
    """Rows by stage and size, each with the exponent of its growth from the next smaller size."""
    before, made = dict[str, tuple[int, float]](), list[Json]()
    for row in sorted(rows, key=lambda item: item["chunks"]):
        spent, growth = row["CPU s"] + row["server CPU s"], ""
        if row["stage"] in before and (old := before[row["stage"]])[0] < row["chunks"]:
            growth = f"{math.log(spent / old[1]) / math.log(row['chunks'] / old[0]):.2f}"
        before[row["stage"]] = row["chunks"], spent
        made.append({**{name: value for name, value in row.items() if name != "note"}, "growth": growth})
    return made


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--chunks", type=int, nargs="+", default=[10_000, 100_000], help="sizes")
    parser.add_argument("--lines", type=Path, metavar="FILE", help="append each stage as it ends to this file")
    parser.add_argument("--copied", action="store_true", help="load documents by COPY instead of the first ingest")
    given = parser.parse_args()
    earlier = given.lines.read_text().splitlines() if given.lines and given.lines.exists() else []
    rows: list[Json] = [json.loads(line) for line in earlier]

    def tell(row: Json) -> None:
        rows.append(row)
        print(f"{table(with_growth(rows)[-1:])}\n{row['note']}", flush=True)
        if given.lines:
            with given.lines.open("a") as file:
                file.write(f"{json.dumps(row)}\n")

    for chunks in given.chunks:
        with scratch_store() as url, connect(url) as conn:
            folder = Path(str(scalar(conn, "SHOW data_directory"))).parent / "state"
            Rehearsal(chunks, url, folder, tell, given.copied).run()
    print(table(with_growth(rows)))
    print(versions())
    write_json(given.json, {"scale": rows})


if __name__ == "__main__":
    main()
