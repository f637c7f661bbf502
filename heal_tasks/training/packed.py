"""BERT's forward pass on a CPU over texts packed end to end: no padding, no masks, buffers used again.

The linear layers see all tokens of a batch as one matrix; attention runs once per group of texts of equal length. In
float32 it is 1.1 times as fast as sentence-transformers' own pass on texts that fill the window and 1.25 times on
abstracts, in bfloat16 1.07 and 1.3 times (bench/RESULTS.md). Weights are read at each pass, so the model may be in
training.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer, WordWeights
from torch import Tensor
from torch.nn import functional
from transformers import BertModel

_VECTOR = "sentence_embedding"

Run = tuple[int, int, int]
"""Texts of one length: first token, number of texts, tokens per text."""


class PackedBert:
    """The packed pass of a model that ``packs`` accepts.

    Args:
        model: from ``load_encoder``.
        tokens: most tokens per pass; a longer text goes alone.
        dtype: number format of the computation, float32 or bfloat16; by default that of the weights.
    """

    def __init__(self, model: SentenceTransformer, tokens: int, dtype: torch.dtype | None = None) -> None:
        self._model, self._tokens = model, tokens
        self._bert: Any = model[0].auto_model
        self._dtype: torch.dtype = dtype or self._bert.dtype
        self._heads: int = self._bert.config.num_attention_heads
        self._weights: Any = model[1].emb_layer if isinstance(model[1], WordWeights) else None
        pooling = 1 if self._weights is None else 2
        self._first_token = model[pooling].pooling_mode == "cls"
        self._last = list(model)[pooling + 1 :]
        self._room: dict[str, Tensor] = {}

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of texts, equal to those of the model's own ``encode`` except for their length.

        Args:
            texts: n texts, at least one.

        Returns:
            float32, shape (n, d).
        """
        features = self._model.preprocess(list(texts))
        real = features["attention_mask"].bool()  # (n, longest)
        lengths = real.sum(1)
        order = torch.argsort(lengths, descending=True, stable=True)
        vectors = torch.empty(len(texts), self._model.get_embedding_dimension())
        for rows in self._batches(order.tolist(), lengths.tolist()):
            kept = real[rows]
            types = features.get("token_type_ids")
            vectors[rows] = self._forward(
                features["input_ids"][rows][kept],
                torch.arange(real.shape[1]).expand(len(rows), -1)[kept],
                torch.zeros_like(features["input_ids"])[rows][kept] if types is None else types[rows][kept],
                lengths[rows].tolist(),
            )
        return vectors.numpy()

    def _batches(self, order: list[int], lengths: list[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        held = 0
        for row in order:
            if batch and held + lengths[row] > self._tokens:
                yield batch
                batch, held = [], 0
            batch.append(row)
            held += lengths[row]
        yield batch

    def _forward(self, ids: Tensor, places: Tensor, types: Tensor, lengths: list[int]) -> Tensor:
        """The texts' vectors, float32, shape (texts, d).

        ``ids``, ``places`` and ``types`` have one entry per token, t in all, the sum of ``lengths``.
        """
        embeddings = self._bert.embeddings
        states = embeddings.word_embeddings(ids) + embeddings.token_type_embeddings(types)
        states = embeddings.LayerNorm(states + embeddings.position_embeddings(places)).to(self._dtype)  # (t, d)
        runs: list[Run] = []
        start = 0
        for length, group in groupby(lengths):
            count = sum(1 for _ in group)
            runs.append((start, count, length))
            start += count * length
        for layer in self._bert.encoder.layer:
            attention, output = layer.attention, layer.output
            mixed = self._linear("states", self._attend(attention.self, states, runs), attention.output.dense)
            states = attention.output.LayerNorm(mixed.add_(states))
            inner = torch.ops.aten.gelu_(self._linear("inner", states, layer.intermediate.dense))  # (t, 4 d)
            states = output.LayerNorm(self._linear("states", inner, output.dense).add_(states))
        if self._first_token:
            pooled = torch.cat([self._texts(states, run)[:, 0].float() for run in runs])
        else:
            shares = torch.tensor(lengths, dtype=torch.float32)
            if self._weights is not None:
                weights = self._weights(ids)  # (t, 1)
                states.mul_(weights)
                shares = torch.cat([self._texts(weights, run).sum((1, 2), dtype=torch.float32) for run in runs])
            pooled = torch.cat([self._texts(states, run).sum(1, dtype=torch.float32) for run in runs])
            pooled /= shares.clamp(min=1e-9)[:, None]
        for module in self._last:
            dtype = next((weight.dtype for weight in module.parameters()), pooled.dtype)
            pooled = module({_VECTOR: pooled.to(dtype)})[_VECTOR]
        return pooled.float()

    def _attend(self, layer: Any, states: Tensor, runs: list[Run]) -> Tensor:
        projected = [
            self._linear(name, states, linear)
            for name, linear in (("query", layer.query), ("key", layer.key), ("value", layer.value))
        ]
        seen = self._space("seen", *states.shape)
        for run in runs:
            # (texts, heads, tokens, d / heads)
            query, key, value = (
                self._texts(part, run).view(run[1], run[2], self._heads, -1).transpose(1, 2) for part in projected
            )
            mixed = functional.scaled_dot_product_attention(query, key, value)
            self._texts(seen, run).copy_(mixed.transpose(1, 2).flatten(2))
        return seen

    @staticmethod
    def _texts(states: Tensor, run: Run) -> Tensor:
        """The rows of a run as (texts, tokens, width)."""
        start, count, length = run
        return states[start : start + count * length].view(count, length, -1)

    def _linear(self, name: str, states: Tensor, linear: torch.nn.Linear) -> Tensor:
        out = self._space(name, len(states), linear.out_features)
        return torch.addmm(linear.bias.to(self._dtype), states, linear.weight.to(self._dtype).t(), out=out)

    def _space(self, name: str, rows: int, width: int) -> Tensor:
        """A buffer that is used again: page faults of a new one cost an eighth of a large product."""
        if name not in self._room or len(self._room[name]) < rows:
            self._room[name] = torch.empty(rows, width, dtype=self._dtype)
        return self._room[name][:rows]


def packs(model: SentenceTransformer) -> bool:
    """True where ``PackedBert`` gives the model's vectors.

    That is a plain BERT with pooling by mean, with or without token weights, or by the first token, in float32 or
    bfloat16 on a CPU. Adapters and 4-bit layers replace linear layers by classes of other packages, so such models are
    refused.
    """
    modules = list(model)
    weighted = type(modules[1]) is WordWeights
    if weighted:
        del modules[1]
    if [type(module) for module in modules[:2]] != [Transformer, Pooling] or model.truncate_dim is not None:
        return False
    bert, pooling, last = modules[0].auto_model, modules[1], modules[2:]
    if type(bert) is not BertModel or pooling.pooling_mode not in (("mean",) if weighted else ("mean", "cls")):
        return False
    if not pooling.include_prompt or not all(_takes_vectors(module) for module in last):
        return False
    config = bert.config
    kinds = {(weight.device.type, weight.dtype) for weight in bert.parameters()}
    return (
        config.hidden_act == "gelu"
        and not config.is_decoder
        and model.tokenizer.padding_side == "right"
        and all(type(module).__module__.startswith(("torch.nn.", "transformers.")) for module in bert.modules())
        and kinds in ({("cpu", torch.float32)}, {("cpu", torch.bfloat16)})
    )


def _takes_vectors(module: Any) -> bool:
    """True for a module that maps the texts' vectors and nothing else."""
    names = {getattr(module, name, _VECTOR) for name in ("module_input_name", "module_output_name")}
    return type(module) in (Dense, Normalize) and names <= {_VECTOR, None}
