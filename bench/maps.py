"""Measures APEX's claims about entity maps as a training view, beside plain text cut to the same number of tokens.

Run from the project's root: ``python -m bench.maps --collection FOLDER``; maps are by an LLM where one is configured,
else by the extractive writer (``HEAL_MAP_WRITER``), questions likewise. No human query is seen before the test.

APEX-Embedding (Aviss 2024, arXiv 2410.18105) trains on maps instead of text, interrupts before convergence, and reports
inputs shorter by 37.71 % and better retrieval of plain text. It lacks the control: *cut* shows, of the same questions
and chunks, as many tokens of their plain text as their map has, from the beginning. All rows train with the defaults.

Columns: share of training questions and chunks shown as maps; tokens saved, of whole texts and of what training reads
(``HEAL_TRAIN_MAX_TOKENS``); validation by plain text of the base model, at the best look, at the last; on the official
test queries nDCG@10 and its paired difference to the base model and to training on plain text, and top-1 accuracy.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bench.common import parent_parser, show
from bench.judging import Test, ranked_values
from bench.quality import Deployment
from bench.quality_rows import DEFAULT, Row, Values
from bench.scratch import scratch_store
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.devices import pick_device
from heal_tasks.core.models import CARD, resolve_model
from heal_tasks.core.settings import load_settings
from heal_tasks.evaluation.bootstrap import mean_interval, paired_difference
from heal_tasks.evaluation.ranking import top_k
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.scoring import CHUNKS_RANKED
from heal_tasks.steps.vectors.spaces import model_ref
from heal_tasks.store.db import connect
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.training.encoder import encode, in_bf16, load_encoder

Rows = list[dict[str, Any]]


def tokenizer_of(model: str) -> Tokenizer:
    """A model's tokenizer, without the truncation and padding that its file sets."""
    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def cut_like(maps: Rows, plain: Rows, tokenizer: Tokenizer) -> None:
    """Put in place of every map the beginning of its text with as many tokens; ``plain`` has the texts."""

    def cut(shown: str, text: str) -> str:
        size = len(tokenizer.encode(shown, add_special_tokens=False))
        ends = [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]
        return text if shown == text or size >= len(ends) else text[: ends[size - 1]]

    for row, text in zip(maps, plain, strict=True):
        row["question"] = cut(row["question"], text["question"])
        row["document"] = cut(row["document"], text["document"])
        for negative, other in zip(row["negatives"], text["negatives"], strict=True):
            negative["document"] = cut(negative["document"], other["document"])


def texts_of(rows: Rows) -> Iterator[str]:
    """Everything that the encoder reads of a training set."""
    for row in rows:
        yield from (row["question"], row["document"], *(negative["document"] for negative in row["negatives"]))


def part_of(test: Test, most: int) -> Test:
    """The test queries, or so many of them, drawn at random."""
    rows = np.sort(np.random.default_rng(0).permutation(len(test.queries))[: most or None])
    return Test([test.queries[row] for row in rows], [test.answers[row] for row in rows])


def judge(deployment: Deployment, model: str, test: Test) -> Values:
    """Test values of a model by plain texts, which it reads as in training: as long, and in the same number format."""
    settings = deployment.settings
    encoder = load_encoder(model, device=settings.device)
    encoder.max_seq_length = settings.train_max_tokens
    bf16 = in_bf16(settings.train_dtype, pick_device(settings.device))
    with connect(settings.require_database_url(), autocommit=True) as conn:
        chunks = Corpus(conn).chunks(None)
        texts = Corpus(conn).chunk_texts(chunks.chunk_ids)
    documents = encode(encoder, [embedding_text(*texts[number]) for number in chunks.chunk_ids.tolist()], bf16=bf16)
    queries = encode(encoder, test.queries, role="query", bf16=bf16)
    return ranked_values(top_k(queries, documents, CHUNKS_RANKED)[0], chunks, test)


def train(deployment: Deployment, name: str, row: Row, plain: Rows, tokenizer: Tokenizer) -> tuple[dict[str, Any], str]:
    """Train one row: what it was shown and how validation went, and the folder of the model."""
    manifest = deployment.mine(name, row)
    shown, settings = deployment.training_rows(manifest), row.applied(deployment.settings)
    manifest = load_step("train").run(settings, manifest)
    (objective,) = settings.objectives
    model = artifact_store(settings).model_path(manifest.text(model_ref(objective)))
    card = json.loads((Path(model) / CARD).read_text(encoding="utf-8"))
    looks = [look["score"] for look in card["history"]]

    def tokens(rows: Rows, most: int | None) -> int:
        return sum(len(tokenizer.encode(text).ids[:most]) for text in texts_of(rows))

    def share(key: str) -> float:
        return float(np.mean([row[key] != text[key] for row, text in zip(shown, plain, strict=True)]))

    return {
        "questions": share("question"), "chunks": share("document"),
        "saved": 1 - tokens(shown, None) / tokens(plain, None),
        "of what is read": 1 - tokens(shown, settings.train_max_tokens) / tokens(plain, settings.train_max_tokens),
        "validation": " → ".join(f"{value:.3f}" for value in (card["metrics"]["base_score"], max(looks), looks[-1])),
    }, model  # fmt: skip


def measured(values: Values, others: dict[str, Values]) -> dict[str, Any]:
    """Test figures of a row, and its paired differences to others."""
    ndcg = mean_interval(values["ndcg@10"], seed=0)
    found: dict[str, Any] = {"nDCG@10": f"{ndcg.value:.4f} [{ndcg.low:.4f}, {ndcg.high:.4f}]"}
    for name, known in others.items():
        apart = paired_difference(values["ndcg@10"], known["ndcg@10"], seed=0)
        found[f"against {name}"] = f"{apart.value:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]"
    return found | {"top-1": float(values["accuracy@1"].mean())}


def bench(folder: Path, rates: Sequence[float], most: int, queries: int) -> Iterator[dict[str, Any]]:
    """Rows of the table, each as soon as it is measured."""
    with tempfile.TemporaryDirectory(prefix="heal-bench-") as name, scratch_store() as url:
        var_dir = Path(name).resolve()
        settings = load_settings(
            var_dir=var_dir, database_url=url, sources=(f"file:{var_dir / 'inbox'}",), force_route="realign"
        )
        deployment = Deployment(settings, folder, setting="corpus", most=most)
        yield from rows_of(deployment, folder.name, rates, queries)


def rows_of(deployment: Deployment, collection: str, rates: Sequence[float], queries: int) -> Iterator[dict[str, Any]]:
    """The base model, training on plain text, and for each rate on maps and on cut text."""
    settings, test = deployment.settings, part_of(deployment.test, queries)
    tokenizer = tokenizer_of(resolve_model(settings.model))
    others = {"base": judge(deployment, resolve_model(settings.model), test)}
    yield {"collection": collection, "row": "base", "queries": len(test.queries)} | measured(others["base"], {})
    plain = deployment.training_rows(deployment.mine("texts", Row(DEFAULT)))
    rows = {"plain": Row(DEFAULT)}
    for rate in rates:
        rows[f"maps {rate:g}"] = Row(DEFAULT | {"map_rate": rate})
        rows[f"cut {rate:g}"] = Row(DEFAULT | {"map_rate": rate}, lambda shown: cut_like(shown, plain, tokenizer))
    for label, row in rows.items():
        shown, model = train(deployment, label, row, plain, tokenizer)
        values = judge(deployment, model, test)
        yield {"collection": collection, "row": label, "queries": len(test.queries)} | shown | measured(values, others)
        others.setdefault("plain", values)


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, required=True, help="folder with corpus, queries and qrels")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.3, 1.0], help="values of HEAL_MAP_RATE")
    parser.add_argument("--documents", type=int, default=0, help="most documents (default: all)")
    parser.add_argument("--queries", type=int, default=0, help="most test queries (default: all)")
    given = parser.parse_args()
    show("maps", bench(given.collection, given.rates, given.documents, given.queries), given.json)


if __name__ == "__main__":
    main()
