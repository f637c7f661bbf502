"""Mean pooling weighted by the tokens' inverse document frequency in the corpus; needs no questions.

A plain mean gives a word that every document has as much weight as one that distinguishes documents. Inverse document
frequency corrects that (Sparck Jones 1972), as SIF does for word vectors (Arora et al. 2017, "A simple but
tough-to-beat baseline for sentence embeddings"). The weights are a module of sentence-transformers, so the published
model depends on nothing of this project.
"""

from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer, WordWeights

from heal_tasks.core.batches import batched
from heal_tasks.core.models import Role

TEXTS_AT_ONCE = 1024

SPECIAL_WEIGHT = 0.5
"""Weight of special tokens. At 1 nDCG@10 gained .0165 on ATT&CK and .0036 on NFCorpus, at 0.5 .0200 and .0044, at 0
.0248 and .0028, but there a text without words has no direction."""


def idf_weights(
    documents: Iterable[Sequence[int]], vocabulary: int, special: Sequence[int], power: float
) -> npt.NDArray[np.float32]:
    """Inverse document frequency of every token to a power.

    The frequency is BM25's: ln(1 + (n - f + 0.5) / (f + 0.5)) with n documents, f of which have the token. Weights are
    scaled to mean 1 over the documents' tokens; special tokens have ``SPECIAL_WEIGHT``.

    Args:
        documents: token ids of each document.
        vocabulary: number of tokens.
        special: ids of special tokens.
        power: 0 gives every token the same weight.

    Returns:
        float32, shape (vocabulary,).
    """
    found, seen, total = np.zeros(vocabulary), np.zeros(vocabulary), 0
    for ids in documents:
        tokens, counts = np.unique(np.asarray(ids, dtype=np.int64), return_counts=True)
        found[tokens] += 1
        seen[tokens] += counts
        total += 1
    weights = np.log1p((total - found + 0.5) / (found + 0.5)) ** power
    seen[list(special)] = 0
    if seen.any():
        weights /= np.average(weights, weights=seen)
    weights[list(special)] = SPECIAL_WEIGHT
    return weights.astype(np.float32)


def weight_tokens(model: SentenceTransformer, texts: Iterable[str], power: float) -> None:
    """Weight a model's mean pooling by ``idf_weights``; the weights are not trained.

    Args:
        model: changed in place if it pools by a plain mean.
        texts: the corpus; each distinct text counts once.
        power: see ``idf_weights``; 0 changes nothing.
    """
    pools = len(model) > 1 and isinstance(model[0], Transformer) and isinstance(model[1], Pooling)
    if power == 0 or not pools or model[1].pooling_mode != "mean":
        return
    tokenizer = model.tokenizer
    vocabulary = {number: word for word, number in tokenizer.get_vocab().items()}
    words = [vocabulary.get(number, f"[unused by the tokenizer: {number}]") for number in range(max(vocabulary) + 1)]
    # The words of prompts are in every text, and would be a part of every vector if they counted as rare.
    prompts = "".join(model.prompts.get(role, "") for role in get_args(Role))
    documents = (
        ids
        for batch in batched(sorted(set(texts)), TEXTS_AT_ONCE)
        for ids in tokenizer([prompts + text for text in batch], truncation=True, max_length=model.max_seq_length)[
            "input_ids"
        ]
    )
    weights = idf_weights(documents, len(words), tokenizer.all_special_ids, power)
    layer = WordWeights(words, dict(zip(words, weights.tolist(), strict=True)))
    model.insert(1, layer.requires_grad_(False).to(model.device))
