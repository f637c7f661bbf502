"""Compares a model behind an embeddings API with the same model in files, by the pipeline's own steps and metrics.

Run from the project's root: ``python -m bench.api_encoder --collection FOLDER`` (``bench.quality`` describes the folder
and the settings). The packaged model is once the base model itself, once it answers ``/v1/embeddings`` on loopback and
is ``openai:minilm``. Both sides give the model the same texts, which its tokenizer cuts at the model's own limit.

**Rows.** Base model and base model with NUDGE, each by the encoder alone and *served*: by the encoder with its lexicon
and words. *difference*: API less local, in the means; *largest*: of one coordinate of a chunk's vector.
"""

import argparse
import base64
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import parent_parser, show
from bench.quality import SETTINGS, ByPath, Deployment
from bench.scratch import scratch_store
from heal_tasks.core.errors import HealError
from heal_tasks.core.models import API, resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.core.settings import load_settings
from heal_tasks.store.db import connect
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.training.encoder import Encoder

Vectors = tuple[NDArray[np.int64], NDArray[np.float32]]
METRICS = ("ndcg@10", "recall@10")


@contextmanager
def embeddings_api(encoder: Encoder) -> Iterator[str]:
    """Base URL of a server on loopback that embeds by an encoder, one request at a time."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                rows = encoder.encode(asked["input"])
            coded = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
            data = [{"index": place, "embedding": text} for place, text in enumerate(coded)]
            body = json.dumps({"data": data, "usage": {"prompt_tokens": len(data)}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()


def judge(folder: Path, setting: str, most: int, root: str, **options: str) -> tuple[dict[str, ByPath], Vectors]:
    """Test values of the base model, plain and with NUDGE, and its chunks' vectors, in a store of its own.

    The ids of chunks depend on the place of the documents, which is the same for equal ``root``.
    """
    var_dir = Path(root).resolve() / "var"
    with scratch_store() as url:
        settings = load_settings(
            var_dir=var_dir, database_url=url, sources=(f"file:{var_dir / 'inbox'}",), force_route="realign", **options
        )
        judged = Deployment(settings, folder, setting=setting, most=most).judge(settings.model)
        with connect(url) as conn:
            spaces = SpaceRepository(conn)
            (space,) = spaces.list()
            vectors = spaces.load_chunks(space)
    shutil.rmtree(var_dir)
    return judged, vectors


def bench(folder: Path, setting: str, most: int) -> Iterator[dict[str, Any]]:
    """Rows of the table, each encoder's as soon as it is measured."""
    with tempfile.TemporaryDirectory(prefix="heal-bench-") as root:
        local, (ids, vectors) = judge(folder, setting, most, root)
        yield from (_row("local", name, found) for name, found in local.items())
        with embeddings_api(Encoder(resolve_model(PACKAGED_MODEL), device="cpu", dtype="auto")) as url:
            api, (api_ids, api_vectors) = judge(folder, setting, most, root, model=f"{API}minilm", embed_base_url=url)
    yield from (_row("API", name, found) for name, found in api.items())
    if not np.array_equal(ids, api_ids):
        raise HealError("the two stores have different chunks, so their vectors cannot be compared")
    largest = float(np.abs(vectors - api_vectors).max())
    for name in sorted(local.keys() & api.keys()):
        apart = {
            f"{path} {metric}": f"{api[name][path][metric].mean() - local[name][path][metric].mean():+.5f}"
            for path in local[name] for metric in METRICS
        }  # fmt: skip
        yield {"encoder": "difference", "row": f"base{name}", **apart, "largest": f"{largest:.1e}"}


def _row(encoder: str, name: str, found: ByPath) -> dict[str, Any]:
    means = {f"{path} {metric}": float(found[path][metric].mean()) for path in found for metric in METRICS}
    return {"encoder": encoder, "row": f"base{name}", **means, "queries": len(found["encoder"][METRICS[0]])}


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, required=True, help="folder with corpus, queries and qrels")
    parser.add_argument("--setting", choices=tuple(SETTINGS), default="people")
    parser.add_argument("--documents", type=int, default=0, help="most documents (default: all)")
    given = parser.parse_args()
    show("api encoder", bench(given.collection, given.setting, given.documents), given.json)


if __name__ == "__main__":
    main()
