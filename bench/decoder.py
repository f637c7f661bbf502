"""Trains a QLoRA adapter beside a decoder of a 7B model's shape with random weights: does it fit, and how fast.

Run from the project's root on a machine with a GPU: ``python -m bench.decoder``; it takes 45 GB of disk and 40 GB of
memory, with ``--layers`` in proportion. Weights are random, so the vectors mean nothing; what is shown is that loading
in 4 bits, training through the pipeline's own ``train_encoder``, merging and publishing go through, and their cost.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoTokenizer, MistralConfig, MistralModel

from bench.common import parent_parser, table, versions, write_json
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.training.data import TrainingData, ValidationSet
from heal_tasks.training.encoder import encode, load_encoder
from heal_tasks.training.trainer import TrainingConfig, train_encoder

TOKENS, PAIRS = 256, 64
WORDS = ("aspirin", "lowers", "the", "risk", "of", "stroke", "in", "older", "patients", "with", "high", "pressure")


def make(folder: Path, layers: int) -> int:
    """Write a decoder with last-token pooling in bfloat16; the number of its parameters."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(PACKAGED_MODEL), padding_side="left")
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 4096, "pad_token_id": tokenizer.pad_token_id}
    with tempfile.TemporaryDirectory() as name:
        # The files around the weights come from a small model of the same architecture.
        tokenizer.save_pretrained(name)
        MistralModel(MistralConfig(**shape, hidden_size=32, intermediate_size=32, num_hidden_layers=1)).save_pretrained(
            name
        )
        parts = [Transformer(name, max_seq_length=TOKENS), Pooling(4096, "lasttoken"), Normalize()]
        SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder), create_model_card=False)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = MistralModel(MistralConfig(**shape, num_hidden_layers=layers, dtype="bfloat16")).to(torch.bfloat16)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def texts(count: int) -> list[str]:
    """Texts that fill the window."""
    rng = np.random.default_rng(0)
    return [" ".join([str(number), *rng.choice(WORDS, TOKENS)]) for number in range(count)]


def main() -> None:
    """Make, train, publish, encode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--layers", type=int, default=32, help="default 32, as a 7B model has")
    parser.add_argument("--steps", type=int, default=6, help="default 6")
    parser.add_argument("--batch", type=int, default=32, help="pairs per step (default 32)")
    parser.add_argument("--micro-batch", type=int, default=8, help="default 8")
    options = parser.parse_args()
    written, marks = texts(PAIRS), list[tuple[int, float]]()
    data = TrainingData(
        questions=[text[:80] for text in written], documents=written, document_ids=np.arange(PAIRS),
        labels=np.zeros((PAIRS, 1), dtype=np.int64), leaves=np.zeros(PAIRS, dtype=np.int32),
        negatives=[[] for _ in written],
    )  # fmt: skip
    validation = ValidationSet([text[:80] for text in written[:8]], written[:16], [np.array([row]) for row in range(8)])
    config = TrainingConfig(
        max_steps=options.steps, batch_size=options.batch, micro_batch_size=options.micro_batch, max_tokens=TOKENS,
        learning_rate=2e-5, eval_steps=options.steps, adapter="qlora", mask_same_leaf=False,
    )  # fmt: skip
    row: dict[str, Any] = {"layers": options.layers}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        row["parameters, 10^9"] = make(root / "base", options.layers) / 1e9
        torch.cuda.empty_cache()
        model = load_encoder(root / "base", device="cuda", quantised=True)
        row["4-bit weights, GiB"] = torch.cuda.memory_allocated() / 2**30
        del model
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        result = train_encoder(
            root / "base", data, validation, config, work_dir=root / "work", output_dir=root / "model",
            data_fingerprint="random",
            progress=lambda done, *_: marks.append((done, time.perf_counter())),
        )  # fmt: skip
        row["peak in training, GiB"] = torch.cuda.max_memory_allocated() / 2**30
        first = dict(reversed(marks))
        row["s per step"] = (first[options.steps] - first[1]) / (options.steps - 1)
        vectors = encode(load_encoder(result.model_dir, device="cuda", dtype="bfloat16"), written[:8])
        row["published"] = f"{vectors.shape[1]} dimensions, finite: {bool(np.isfinite(vectors).all())}"
    print(table([row]))
    print(versions())
    write_json(options.json, {"decoder": [row]})


if __name__ == "__main__":
    main()
