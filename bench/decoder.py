"""Memory and time of QLoRA training with a decoder of a 7B model's shape and random weights.

Run from the project's root on a machine with a GPU: ``python -m bench.decoder``; it takes 45 GB of disk and 40 GB of
memory, with ``--layers`` in proportion. Weights are random, so the vectors mean nothing; the bench shows that loading
in 4 bits, training by ``train_encoder``, merging and saving work, and their cost.
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
from transformers import AutoTokenizer, LlamaConfig, LlamaModel, MistralConfig, MistralModel

from bench.common import parent_parser, table, versions, write_json
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.training.data import TrainingData, ValidationSet
from heal_tasks.training.encoder import encode, load_encoder
from heal_tasks.training.trainer import TrainingConfig, train_encoder

ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    "mistral": (MistralConfig, MistralModel),
    "llama": (LlamaConfig, LlamaModel),
}
TOKENS, PAIRS = 256, 64
WORDS = ("aspirin", "lowers", "the", "risk", "of", "stroke", "in", "older", "patients", "with", "high", "pressure")


def write_decoder(
    folder: Path,
    tokenizer: Any,
    architecture: str = "mistral",
    *,
    max_tokens: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    **shape: int,
) -> int:
    """Write an encoder with last-token pooling around a decoder with random weights.

    Args:
        folder: receives it as sentence-transformers saves it.
        tokenizer: of transformers, with a padding token.
        architecture: a key of ``ARCHITECTURES``.
        max_tokens: longest text.
        device: on which the weights are made.
        dtype: of the weights.
        shape: arguments of the architecture's configuration.

    Returns:
        Number of parameters.
    """
    make_config, make_model = ARCHITECTURES[architecture]
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = make_config(**vocabulary, **shape)
    with tempfile.TemporaryDirectory() as name:
        # The files around the weights come from a small model, because Transformer loads the weights into memory.
        tokenizer.save_pretrained(name)
        small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        make_model(make_config(**vocabulary, **small, num_key_value_heads=1)).save_pretrained(name)
        parts = [Transformer(name, max_seq_length=max_tokens), Pooling(config.hidden_size, "lasttoken"), Normalize()]
        SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder), create_model_card=False)
    torch.manual_seed(0)
    with torch.device(device):
        model = make_model(config).to(dtype)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def texts(count: int) -> list[str]:
    """Different texts of more than ``TOKENS`` tokens."""
    rng = np.random.default_rng(0)
    return [" ".join([str(number), *rng.choice(WORDS, TOKENS)]) for number in range(count)]


def main() -> None:
    """Write, train, save, encode."""
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
        negatives=[[] for _ in written], negative_document_ids=np.empty((PAIRS, 0), np.int64),
        negative_leaves=np.empty((PAIRS, 0), np.int32), question_ids=np.arange(PAIRS),
    )  # fmt: skip
    validation = ValidationSet(
        [text[:80] for text in written[:8]],
        written[:16],
        [np.array([row]) for row in range(8)],
        np.arange(16),
        np.zeros((16, 1), dtype=np.int64),
    )
    config = TrainingConfig(
        max_steps=options.steps, batch_size=options.batch, micro_batch_size=options.micro_batch, max_tokens=TOKENS,
        learning_rate=2e-5, eval_steps=options.steps, adapter="qlora", mask_same_leaf=False,
    )  # fmt: skip
    row: dict[str, Any] = {"layers": options.layers}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(PACKAGED_MODEL), padding_side="left")
        parameters = write_decoder(
            root / "base", tokenizer, max_tokens=TOKENS, device="cuda", dtype=torch.bfloat16,
            num_hidden_layers=options.layers, max_position_embeddings=4096,
        )  # fmt: skip
        row["parameters, 10^9"] = parameters / 1e9
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
