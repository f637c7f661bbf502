"""Finds the candidates of each question: the few rows that are among its best k at some theta.

All other rows can be ignored, because a row that is never among the best k is neither a hit nor takes the place of one.
Of the rows that do not move, only the best k of a question can be candidates. A row that moves is a candidate if at
some theta it reaches the k-th best score of all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from heal_tasks.nudge.products import ROUNDING, Float32Array, Float64Array, Int64Array, block_size, blocks, exact
from heal_tasks.nudge.solve import Moves, Variant, move_factors

_QUESTIONS_AT_ONCE = 2048
_GROUP = 64
# Lines have a wider range than sinusoids: of 12.6 M pairs four segments keep 394,000, six 153,000, eight 78,000.
_SEGMENTS: dict[Variant, int] = {"N": 4, "M": 8}


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that matter, ordered by question and row; the score of a row at theta is p(theta) alpha + r(theta) beta."""

    question: Int64Array  # (c,)
    rows: Int64Array  # (c,)
    alpha: Float64Array  # (c,): similarity of the question to the base vector
    beta: Float64Array  # (c,): similarity to the direction of the move; 0 for rows that do not move
    arrival: Float64Array  # (c,): theta at which the row stops; 0 for rows that do not move
    variant: Variant

    def scores(self, chosen: Int64Array, thetas: Float64Array) -> Float64Array:
        """Scores of c chosen candidates at some thetas each, shape (c, t) like ``thetas``."""
        p, r = move_factors(self.arrival[chosen, None], thetas, self.variant)
        return p * self.alpha[chosen, None] + r * self.beta[chosen, None]


@dataclass(frozen=True, eq=False)
class CandidateSearch:
    """A search for the candidates of questions: the best rows that do not move, and those that rise among them."""

    questions: Float32Array  # (m, d), unit length
    base: Float32Array  # (n, d), unit length: all rows
    moved: Int64Array  # (a,), ascending: the rows that move
    k: int  # number of places that matter
    device: str = "cpu"  # or a GPU
    block_scores: int | None = None  # most scores in a block; None for what suits the device

    @cached_property
    def best_static(self) -> tuple[Int64Array, Float64Array]:
        """The best k of the rows that do not move and their scores, both of shape (m, k), best first.

        Equal scores rank by lower row; -1 and -inf where there are fewer rows.
        """
        best = np.full((len(self.questions), self.k), -1), np.full((len(self.questions), self.k), -np.inf)
        for part in blocks(len(self.questions), _QUESTIONS_AT_ONCE):
            question, row = self._near_best(self.questions[part])
            score = exact(self.questions[part], self.base, question, row)
            order = np.lexsort((row, -score, question))
            question, row, score = question[order], row[order], score[order]
            rank = np.arange(len(question)) - np.searchsorted(question, question)
            first = rank < self.k
            for column, values in zip(best, (row, score), strict=True):
                column[part.start + question[first], rank[first]] = values[first]
        return best

    def find(self, moves: Moves, max_theta: float) -> Candidates:
        """Find a superset of the rows that are among a question's best k at some theta from 0 to ``max_theta``."""
        segments = _Segments(moves, max_theta)
        found = [self._rising(part, moves, segments) for part in blocks(len(self.questions), _QUESTIONS_AT_ONCE)]
        question, place, bar = (np.concatenate(columns) for columns in zip(*found, strict=True))
        rows = self.moved[place]
        static, scores = self.best_static
        asked, rank = np.nonzero((static >= 0) & (scores >= bar.min(axis=1, keepdims=True)))
        alpha = exact(self.questions, self.base, question, rows)
        beta = exact(self.questions, moves.directions, question, place)
        return _ordered(
            np.concatenate([asked, question]),
            np.concatenate([static[asked, rank], rows]),
            np.hstack([_unmoved(scores[asked, rank]), [alpha, beta, moves.arrival[place]]]),
            moves.variant,
        )

    def with_answers_unmoved(self, candidates: Candidates, positives: Sequence[Int64Array]) -> Candidates:
        """Add all answers of each question at their base vectors, as if no question had moved them.

        Args:
            candidates: found with k larger than the metric's by the most answers of a question, since another row may
                come up for each answer that falls back.
            positives: the answers of each question, distinct, shape (y,).
        """
        question = np.repeat(np.arange(len(positives)), [len(rows) for rows in positives])
        rows = np.concatenate([np.empty(0, dtype=np.int64), *positives])
        n = len(self.base)
        others = ~np.isin(candidates.question * n + candidates.rows, question * n + rows)
        values = np.stack([candidates.alpha, candidates.beta, candidates.arrival])
        return _ordered(
            np.concatenate([candidates.question[others], question]),
            np.concatenate([candidates.rows[others], rows]),
            np.hstack([values[:, others], _unmoved(exact(self.questions, self.base, question, rows))]),
            candidates.variant,
        )

    def _near_best(self, questions: Float32Array) -> tuple[Int64Array, Int64Array]:
        """Pairs of question and row: the best k in float32, and all rows that rounding may have put below them."""
        base, k, device = self.base, self.k, self.device
        stays = np.ones(len(base), dtype=bool)
        stays[self.moved] = False
        on_device = torch.from_numpy(questions).to(device)
        best = torch.full((len(questions), k), -torch.inf, device=device)
        question, rows = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        scores = [np.empty(0, dtype=np.float32)]
        size = block_size(len(questions), device, self.block_scores)
        # One buffer for the scores of all blocks: at 600,000 rows a seventh less time, and 34 MiB instead of 190.
        buffer = torch.empty((len(questions), min(size, len(base))), device=device)
        for part in blocks(len(base), size):
            there = np.flatnonzero(stays[part]) + part.start
            if not len(there):
                continue
            block = base[part] if len(there) == part.stop - part.start else base[there]
            vectors = torch.from_numpy(block).to(device)
            groups = _in_groups(torch.mm(on_device, vectors.T, out=buffer[:, : len(there)]), k)  # (m, size, g)
            leaders = groups.amax(dim=1)
            best = torch.cat([best, leaders], dim=1).topk(k, dim=1).values
            bar = best[:, -1:] - 2 * ROUNDING
            asks, group = (leaders >= bar).nonzero(as_tuple=True)
            found = groups[asks, :, group]  # (p, size)
            hit, inside = (found >= bar[asks]).nonzero(as_tuple=True)
            place = (inside * groups.shape[2] + group[hit]).cpu().numpy()
            real = place < len(there)
            question.append(asks[hit].cpu().numpy()[real])
            rows.append(there[place[real]])
            scores.append(found[hit, inside].cpu().numpy()[real])
        asked = np.concatenate(question)
        # The bar has risen since the first blocks.
        kept = np.concatenate(scores) >= best[:, -1].cpu().numpy()[asked] - 2 * ROUNDING
        return asked[kept], np.concatenate(rows)[kept]

    def _rising(self, part: slice, moves: Moves, segments: "_Segments") -> tuple[Int64Array, Int64Array, Float32Array]:
        """Questions, and indices of moved rows that reach their best k in a segment; and the bars, shape (m, S)."""
        device, k = self.device, self.k
        questions = torch.from_numpy(self.questions[part]).to(device)
        best = torch.from_numpy(self.best_static[1][part].astype(np.float32)).to(device)
        best = best[:, None].repeat(1, segments.count, 1)  # (m, S, k)
        p, r = (torch.from_numpy(factor.astype(np.float32)).to(device) for factor in (segments.p, segments.r))
        question, place = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        about = [np.empty((2, 0), dtype=np.float32)]
        # Eight arrays of scores are held at a time.
        for block in blocks(len(self.moved), block_size(8 * len(questions), device, self.block_scores)):
            alpha, beta = (
                questions @ torch.from_numpy(rows).to(device).T
                for rows in (self.base[self.moved[block]], moves.directions[block])
            )
            reached = torch.zeros_like(alpha, dtype=torch.bool)
            start = alpha
            for segment in range(segments.count):
                end = torch.addcmul(alpha * p[segment + 1, block], beta, r[segment + 1, block])
                leaders = segments.floor(_in_groups(torch.minimum(start, end), k).amax(dim=1))
                best[:, segment] = torch.cat([best[:, segment], leaders], dim=1).topk(k, dim=1).values
                reached |= torch.maximum(start, end) >= segments.bar(best[:, segment, -1:])
                start = end
            found = reached.nonzero(as_tuple=True)
            question.append(found[0].cpu().numpy())
            place.append(found[1].cpu().numpy() + block.start)
            about.append(torch.stack([alpha[found], beta[found]]).cpu().numpy())
        bar = segments.bar(best[:, :, -1]).cpu().numpy()
        asked, at = np.concatenate(question), np.concatenate(place)
        # The bar has risen since the first blocks.
        first, second = np.concatenate(about, axis=1)
        kept = segments.reaches(first, second, at, bar[asked])
        return asked[kept] + part.start, at[kept], bar


def _unmoved(alpha: Float64Array) -> Float64Array:
    """The values alpha, beta and arrival of rows that do not move, shape (3, c)."""
    return np.stack([alpha, np.zeros(len(alpha)), np.zeros(len(alpha))])


def _ordered(question: Int64Array, rows: Int64Array, values: Float64Array, variant: Variant) -> Candidates:
    order = np.lexsort((rows, question))
    alpha, beta, arrival = values[:, order]
    return Candidates(question[order], rows[order], alpha, beta, arrival, variant)


def _in_groups(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Columns in groups, shape (m, size, g), filled up with -inf.

    Any k columns give a lower bound of the k-th best score. The maxima of groups give a good one, and cost less than a
    sort. There are at least 8 k groups where there are that many columns.
    """
    size = 1 << max(1, min(_GROUP, scores.shape[1] // (8 * k))).bit_length() - 1
    if scores.shape[1] % size:
        scores = torch.nn.functional.pad(scores, (0, -scores.shape[1] % size), value=-torch.inf)
    return scores.view(len(scores), size, -1)


class _Segments:
    """The range of theta in a few segments, and bounds of the scores within each.

    A score is a sinusoid (N) or a line (M) in theta, so its values at both ends of a segment bound it: a sinusoid over
    an interval of width h has its peak within h/2 of an end, hence max <= larger end / cos(h/2).
    """

    def __init__(self, moves: Moves, max_theta: float) -> None:
        self.count = _SEGMENTS[moves.variant]
        spacing = np.linspace(0.0, 1.0, self.count + 1)
        # NUDGE-M has a wide range, but most rows change places early in it; lines need no even spacing.
        thetas = max_theta * (spacing if moves.variant == "N" else spacing**2)
        self.p, self.r = move_factors(moves.arrival, thetas[:, None], moves.variant)  # (S + 1, a)
        self.bend = float(np.cos(max_theta / self.count / 2)) if moves.variant == "N" else 1.0
        # A step of NUDGE-M multiplies the rounding of the similarity to its direction.
        self.rounding = 2 * ROUNDING * max(1.0, max_theta)

    def bar(self, kth: torch.Tensor) -> torch.Tensor:
        """The score that a row must reach at an end of a segment to reach the k-th best score inside."""
        return torch.where(kth > 0, kth * self.bend, kth) - self.rounding

    def floor(self, end: torch.Tensor) -> torch.Tensor:
        """A lower bound of scores inside a segment, from the lower of their values at both ends."""
        return torch.where(end < 0, end / self.bend, end) - self.rounding

    def reaches(
        self, alpha: Float32Array, beta: Float32Array, place: Int64Array, bar: Float32Array
    ) -> NDArray[np.bool_]:
        """Tell which rows reach a bar, shape (h, S), in any segment."""
        ends = self.p[:, place] * alpha + self.r[:, place] * beta  # (S + 1, h)
        return np.asarray((np.maximum(ends[:-1], ends[1:]) >= bar.T).any(axis=0))
