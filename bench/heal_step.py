"""Cost of the HEAL term in a training step, and memory saved by gradient caching.

Run from the project's root: ``python -m bench.heal_step``. all-MiniLM-L6-v2, random tokens, one thread, CPU. The three
losses take turns in one process, so that all meet the same load, and each share is the median of the differences
within a turn. First the own-document term without masks must equal the in-batch loss of sentence-transformers, and the
cached form's loss and gradient those of the plain form.

With ``--device cuda`` seconds are wall time, steps run in bfloat16 as in a training, and the peak is of the GPU's
memory; equality is checked in float32.
"""

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer import losses
from torch import Tensor

from bench.common import MIN_RUNS, clock_of, measure, parent_parser, table, versions, write_json
from heal_tasks.core.errors import HealError
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import TrainingData
from heal_tasks.training.encoder import load_encoder
from heal_tasks.training.objective import Objective

TEMPERATURE = 0.05
QUESTION_TOKENS, DOCUMENT_TOKENS = 16, 64


def batch_of(pairs: int, device: str) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Features of questions and documents, and the rows of the pairs."""
    random = torch.Generator().manual_seed(0)
    features = []
    for tokens in (QUESTION_TOKENS, DOCUMENT_TOKENS):
        ids = torch.randint(1000, 30000, (pairs, tokens), generator=random).to(device)
        features.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return features, torch.arange(pairs, device=device)


def objective(model: Any, pairs: int, heal_weight: float, micro_batch_size: int = 0) -> Objective:
    """Own-document term without masks, and HEAL over a tree of four, sixteen and 64 topics, for different texts."""
    leaf = np.arange(pairs) % 64
    data = TrainingData(
        questions=[f"q{row}" for row in range(pairs)], documents=[f"d{row}" for row in range(pairs)],
        document_ids=np.arange(pairs), labels=np.stack([leaf // 16, 4 + leaf // 4, 20 + leaf], axis=1),
        leaves=leaf.astype(np.int32), negatives=[[]] * pairs,
        negative_document_ids=np.empty((pairs, 0), np.int64), negative_leaves=np.empty((pairs, 0), np.int32),
        question_ids=np.arange(pairs),
    )  # fmt: skip
    config = TrainingConfig(
        heal_weight=heal_weight, own_document_temperature=TEMPERATURE, mask_same_leaf=False,
        micro_batch_size=micro_batch_size,
    )  # fmt: skip
    return Objective(model, data, config, None)


def _model(device: str) -> Any:
    # Evaluation mode, because without dropout the forms agree up to rounding.
    return load_encoder(resolve_model(PACKAGED_MODEL), device=device)


def step(model: Any, loss: Callable[..., Any], pairs: int) -> float:
    """The loss of one step, forward and backward."""
    features, labels = batch_of(pairs, model.device.type)
    model.zero_grad()
    value = loss([dict(column) for column in features], labels)
    total = torch.stack(list(value.values())).sum() if isinstance(value, dict) else value
    total.backward()
    return float(total.detach())


def turns(device: str, pairs: int, runs: int) -> list[tuple[float, float, float]]:
    """Seconds per step of in-batch loss, own-document term, and both terms, per turn."""
    model = _model(device)
    peer = losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    forms = (peer, objective(model, pairs, 0.0), objective(model, pairs, 0.1))
    values = [step(model, form, pairs) for form in forms]
    if abs(values[0] - values[1]) > 1e-4:
        raise HealError(f"own-document term {values[1]} differs from the in-batch loss {values[0]}")
    with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
        for form in forms:
            step(model, form, pairs)
        return [tuple(_timed(device, step, model, form, pairs) for form in forms) for _ in range(runs)]


def _timed(device: str, work: Callable[..., object], *args: Any) -> float:
    (clock, _), finish = clock_of(device), bool if device == "cpu" else torch.cuda.synchronize
    finish()
    start = clock()
    work(*args)
    finish()
    return clock() - start


def terms_alone(device: str, pairs: int, runs: int) -> list[tuple[float, float]]:
    """Seconds per turn of the terms' forward and backward pass from embeddings: own-document, and with HEAL."""
    model = _model(device)
    _, labels = batch_of(pairs, device)
    columns = [torch.randn(pairs, 384, device=device, requires_grad=True) for _ in range(2)]
    forms = {weight: objective(model, pairs, weight) for weight in (0.0, 0.1)}

    def once(weight: float) -> None:
        torch.stack(list(forms[weight].loss_of_embeddings(columns, labels).values())).sum().backward()

    once(0.1)
    return [(_timed(device, once, 0.0), _timed(device, once, 0.1)) for _ in range(runs)]


def gradient(device: str, pairs: int, micro_batch_size: int) -> tuple[float, NDArray[np.float32], float]:
    """Loss of one step, its gradient as one float32 vector, and the GPU's peak MiB."""
    model = _model(device)
    value = step(model, objective(model, pairs, 0.1, micro_batch_size), pairs)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else 0.0
    slopes = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return value, slopes.cpu().numpy(), peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, parents=[parent_parser()])
    parser.add_argument("--pairs", type=int, default=32, help="batch size of a whole step (default 32)")
    parser.add_argument("--many", type=int, default=1024, help="batch size for the terms alone (default 1024)")
    parser.add_argument("--micro-batch", type=int, default=8, help="of the cached form (default 8)")
    parser.add_argument("--runs", type=int, default=MIN_RUNS, help="turns (default 5)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default cpu")
    options = parser.parse_args()
    print(versions())
    _, seconds = clock_of(options.device)

    steps = measure(turns, options.device, options.pairs, options.runs).result
    names = ("in-batch loss, sentence-transformers", "own-document term", "own-document term + HEAL")
    whole = [
        {
            "loss": name,
            "pairs": options.pairs,
            f"{seconds} per step": median(turn[place] for turn in steps),
            "over the own-document term": f"{median(turn[place] / turn[1] - 1 for turn in steps):+.1%}",
        }
        for place, name in enumerate(names)
    ]
    alone = []
    for pairs in (options.pairs, options.many):
        costs = measure(terms_alone, options.device, pairs, options.runs).result
        encoder_s = median(turn[1] for turn in steps) * pairs / options.pairs
        added = median(both - own for own, both in costs)
        alone.append(
            {"pairs": pairs, f"own-document {seconds[:-1]}ms": 1e3 * median(own for own, _ in costs),
             f"HEAL {seconds[:-1]}ms": 1e3 * added, "of a step": f"{added / encoder_s:.2%}"}
        )  # fmt: skip
    forms = {"plain": 0, f"cached, {options.micro_batch} at a time": options.micro_batch}
    done = {name: measure(gradient, options.device, options.pairs, size) for name, size in forms.items()}
    (plain_loss, plain, _), *others = (form.result for form in done.values())
    for loss, vector, _ in others:
        if abs(loss - plain_loss) > 1e-4 or np.linalg.norm(vector - plain) / np.linalg.norm(plain) > 1e-4:
            raise HealError(f"the cached form differs: loss {loss} and {plain_loss}")
    cached = [
        {"form": name, "pairs": options.pairs, "CPU s": form.cpu_s, "peak MiB": form.result[2] or form.peak_mib}
        for name, form in done.items()
    ]
    for title, rows in (("A whole step", whole), ("The terms from embeddings", alone), ("Gradient caching", cached)):
        print(f"\n{title}:\n\n{table(rows)}")
    write_json(options.json, {"step": whole, "terms": alone, "caching": cached})


if __name__ == "__main__":
    main()
