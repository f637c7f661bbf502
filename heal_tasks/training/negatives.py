"""Negative mining by the base model's own similarities.

Near negatives are those that the model almost confuses with the right document, far ones rank well behind. A text that
scores almost as high as the right one is more likely an unlabelled answer than a mistake, so it is excluded:
positive-aware mining (NV-Retriever, Moreira et al. 2024, arXiv 2407.15831).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from heal_tasks.core.errors import InputError
from heal_tasks.training.data import FloatArray, IntArray, several_answers

MAX_RATIO = 0.95
"""Largest share of the right text's cosine that a negative may have, the setting of NV-Retriever."""
NEAR_SHARE = 0.05
NEAR_AT_MOST = 100
"""In a large corpus the top 5 % go far beyond texts that resemble the question."""
FAR_SHARES = (0.2, 0.6)
BLOCK_VALUES = 1 << 26
"""256 MiB: 67 questions with a million texts."""


def plan_negatives(
    question_vectors: FloatArray,
    document_vectors: FloatArray,
    positives: IntArray,
    *,
    document_ids: IntArray,
    question_ids: IntArray,
    near: int,
    far: int,
    seed: int,
    block_values: int = BLOCK_VALUES,
) -> IntArray:
    """Draw distinct negatives of every question from two bands of its ranking, given as rows of ``document_vectors``.

    Excluded are texts of documents that answer the question, and texts whose cosine is above p - |p| (1 - MAX_RATIO),
    where p is the right text's cosine. That equals MAX_RATIO p for positive p and stays a margin for negative p. Of the
    r candidates, ranked by cosine, the near band is the top 5 % (at most 100, at least ``near``) and the far band the
    ranks from 20 to 60 %. The bands are quantiles because the scale of cosines differs between models.

    Args:
        question_vectors: shape (n, d).
        document_vectors: shape (m, d).
        positives: shape (n,); row of each question's right text in ``document_vectors``; -1 if it is missing.
        document_ids: shape (m,); document of each text.
        question_ids: shape (n,); equal for rows with the same question, whose right texts all answer it.
        near: negatives from the near band.
        far: negatives from the far band.
        seed: with the question's row decides the draw.
        block_values: cosines in memory at a time.

    Returns:
        int64, shape (n, near + far), near ones first; -1 where a band has too few or the right text is missing.

    Raises:
        InputError: shapes do not fit, or a positive does not exist.
    """
    n, m = len(question_vectors), len(document_vectors)
    shapes = [positives.shape, question_ids.shape, document_ids.shape]
    if shapes != [(n,), (n,), (m,)]:
        raise InputError(
            f"positives, question_ids and document_ids have shapes {shapes}; expected ({n},), ({n},) and ({m},) for "
            f"{n} questions and {m} texts"
        )
    if n and (int(positives.min()) < -1 or int(positives.max()) >= m):
        raise InputError(f"positives reach from {positives.min()} to {positives.max()}; there are {m} texts")
    plan = np.full((n, near + far), -1, dtype=np.int64)
    if near + far == 0:
        return plan
    known = np.flatnonzero(positives >= 0)
    answers = {
        int(known[place]): documents
        for place, documents in several_answers(question_ids[known], document_ids[positives[known]]).items()
    }
    for row, scores in _scores(question_vectors, document_vectors, block_values):
        positive = int(positives[row])
        if positive < 0:
            continue
        score = float(scores[positive])
        allowed = (scores <= score - abs(score) * (1 - MAX_RATIO)) & (document_ids != document_ids[positive])
        if row in answers:
            allowed &= ~np.isin(document_ids, answers[row])
        rng = np.random.default_rng((seed, row))
        bands = _bands(scores, np.flatnonzero(allowed), near)
        for start, wanted, band in zip((0, near), (near, far), bands, strict=True):
            drawn = rng.choice(band, min(wanted, len(band)), replace=False)
            plan[row, start : start + len(drawn)] = drawn
    return plan


def _scores(questions: FloatArray, documents: FloatArray, block_values: int) -> Iterator[tuple[int, FloatArray]]:
    """The row of each question and its cosines with all texts, shape (m,)."""
    transposed = _unit(documents).T
    block = max(1, block_values // max(1, len(documents)))
    for start in range(0, len(questions), block):
        product = _unit(questions[start : start + block]) @ transposed  # (block, m)
        yield from enumerate(product, start)


def _unit(vectors: FloatArray) -> FloatArray:
    wide = vectors.astype(np.float32, copy=False)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def _bands(scores: FloatArray, candidates: npt.NDArray[np.intp], near: int) -> tuple[IntArray, IntArray]:
    """Near and far candidates, ascending, so that the draw does not depend on the partition's order."""
    r = len(candidates)
    near_end = min(r, max(near, min(int(np.ceil(NEAR_SHARE * r)), NEAR_AT_MOST)))
    far_start, far_end = (int(np.ceil(share * r)) for share in FAR_SHARES)
    far_start = max(near_end, far_start) if near else far_start
    cuts = sorted({cut for cut in (near_end, far_start, far_end) if cut < r})
    ranked = candidates[np.argpartition(-scores[candidates], cuts)] if cuts else candidates
    return np.sort(ranked[:near_end]), np.sort(ranked[far_start:far_end])
