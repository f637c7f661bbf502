"""Finds, for each question, the few rows that any budget can bring into its first k places.

Everything else can be forgotten: a row that is never among the best k can neither be a hit nor push a hit out. Of the
rows that stay, the best k of a question are enough, whatever moves; of the rows that move, those that reach the k-th
best of all at some budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from heal_tasks.nudge.products import (
    QUESTIONS_AT_ONCE,
    ROUNDING,
    FloatProduct,
    blocks,
    exact,
    product,
    scores_at_once,
)
from heal_tasks.nudge.solve import Moves, Variant, move_factors

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_GROUP = 64
# Lines have a wider range than sinusoids: of 12.6 M pairs four segments keep 394,000, six 153,000, eight 78,000.
_SEGMENTS: dict[Variant, int] = {"N": 4, "M": 8}


@dataclass(frozen=True, slots=True)
class Hits:
    """Some rows of each question, with their scores, ordered by question and row.

    Args:
        question: int64, shape (h,).
        rows: int64, shape (h,).
        scores: float64, shape (h,).
    """

    question: Int64Array
    rows: Int64Array
    scores: Float64Array


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that matter, ordered by question and row; a row's score at budget x is p(x) alpha + r(x) beta.

    Args:
        question: int64, shape (c,).
        rows: int64, shape (c,).
        alpha: float64, shape (c,): similarity to the base vector.
        beta: float64, shape (c,): similarity to the direction of the move; 0 for rows that stay.
        arrival: float64, shape (c,): budget at which the row stops; 0 for rows that stay.
        variant: N or M.
    """

    question: Int64Array
    rows: Int64Array
    alpha: Float64Array
    beta: Float64Array
    arrival: Float64Array
    variant: Variant

    def scores(self, budgets: npt.ArrayLike, chosen: npt.NDArray[np.intp] | slice = slice(None)) -> Float64Array:
        """Scores of all or some of the candidates.

        Args:
            budgets: float, broadcast against the chosen candidates on the first axis.
            chosen: which candidates.

        Returns:
            float64, of the shape of ``budgets`` if that is larger than (c,).
        """
        alpha, beta, arrival = self.alpha[chosen], self.beta[chosen], self.arrival[chosen]
        if np.ndim(budgets) == 2:
            alpha, beta, arrival = alpha[:, None], beta[:, None], arrival[:, None]
        p, r = move_factors(arrival, budgets, self.variant)
        return p * alpha + r * beta


def best_static(questions: Float32Array, base: Float32Array, moved: Int64Array, k: int, device: str = "cpu") -> Hits:
    """The best k of the rows that stay, for each question.

    Args:
        questions: float32, shape (m, d), unit length.
        base: float32, shape (n, d), unit length.
        moved: ascending int64, shape (a,): rows left out.
        k: how many rows per question; all where there are fewer.
        device: where to compute.

    Returns:
        The rows; equal scores by lower row.
    """
    stays = np.ones(len(base), dtype=bool)
    stays[moved] = False
    found = [
        _best_of(questions[part], base, stays, k, device, part.start)
        for part in blocks(len(questions), QUESTIONS_AT_ONCE)
    ]
    return Hits(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def find_candidates(
    questions: Float32Array,
    base: Float32Array,
    moved: Int64Array,
    moves: Moves,
    static: Hits,
    *,
    limit: float,
    k: int,
    device: str = "cpu",
) -> Candidates:
    """Add to the best rows that stay those that move into the first k places somewhere.

    Args:
        questions: float32, shape (m, d), unit length.
        base: float32, shape (n, d), unit length.
        moved: ascending int64, shape (a,).
        moves: of those rows.
        static: the best k rows that stay, from :func:`best_static`.
        limit: largest budget of interest.
        k: how many places matter.
        device: where to compute.

    Returns:
        A superset of the rows that are among a question's best k at some budget from 0 to ``limit``.
    """
    segments = _Segments(moves, limit)
    bars, question, place = [], [], []
    for part in blocks(len(questions), QUESTIONS_AT_ONCE):
        best = np.full((part.stop - part.start, k), -np.inf)
        own = slice(*np.searchsorted(static.question, [part.start, part.stop]))
        at = static.question[own] - part.start
        best[at, _rank(at, static.scores[own], static.rows[own])] = static.scores[own]
        found, bar = _rising(questions[part], base, moved, moves, segments, best, device)
        bars.append(bar)
        question.append(found[0] + part.start)
        place.append(found[1])
    bar, rising, at = np.concatenate(bars), np.concatenate(question), np.concatenate(place)
    alpha, beta = exact(questions, base, rising, moved[at]), exact(questions, moves.directions, rising, at)
    stays = static.scores >= bar[static.question].min(axis=1)
    rows = np.concatenate([static.rows[stays], moved[at]])
    asked = np.concatenate([static.question[stays], rising])
    order = np.lexsort((rows, asked))
    none = np.zeros(int(stays.sum()))
    return Candidates(
        asked[order],
        rows[order],
        np.concatenate([static.scores[stays], alpha])[order],
        np.concatenate([none, beta])[order],
        np.concatenate([none, moves.arrival[at]])[order],
        moves.variant,
    )


def with_answers_unmoved(
    candidates: Candidates, questions: Float32Array, base: Float32Array, positives: Sequence[Int64Array]
) -> Candidates:
    """The same rows with each question's own answers where the encoder put them, as if nobody had asked for those.

    Args:
        candidates: found with as many places more than the metric counts as a question has answers: for each answer
            that falls back another row may come up.
        questions: float32, shape (m, d), unit length.
        base: float32, shape (n, d), unit length.
        positives: the answers of each question, distinct int64, shape (y,).

    Returns:
        All answers, and all other candidates.
    """
    question = np.repeat(np.arange(len(positives)), [len(rows) for rows in positives])
    rows = np.concatenate([np.empty(0, dtype=np.int64), *positives])
    others = ~np.isin(candidates.question * len(base) + candidates.rows, question * len(base) + rows)
    asked, found = (
        np.concatenate([candidates.question[others], question]),
        np.concatenate([candidates.rows[others], rows]),
    )
    order = np.lexsort((found, asked))
    none = np.zeros(len(rows))
    return Candidates(
        asked[order],
        found[order],
        np.concatenate([candidates.alpha[others], exact(questions, base, question, rows)])[order],
        np.concatenate([candidates.beta[others], none])[order],
        np.concatenate([candidates.arrival[others], none])[order],
        candidates.variant,
    )


class _Segments:
    """The range of budgets in a few segments, and what bounds a score within each of them.

    A score is a sinusoid (N) or a line (M) of the budget, so its values at both ends of a segment bound it: a sinusoid
    over an interval of width h has its peak within h/2 of an end, hence max <= larger end / cos(h/2).
    """

    def __init__(self, moves: Moves, limit: float) -> None:
        self.count = _SEGMENTS[moves.variant]
        spacing = np.linspace(0.0, 1.0, self.count + 1)
        # Steps of NUDGE-M have a wide range and do their work early in it; lines need no even spacing.
        budgets = limit * (spacing if moves.variant == "N" else spacing**2)
        self.p, self.r = move_factors(moves.arrival, budgets[:, None], moves.variant)  # (S + 1, a)
        self.bend = float(np.cos(limit / self.count / 2)) if moves.variant == "N" else 1.0
        # A step of NUDGE-M multiplies the rounding of the similarity to its direction.
        self.wrong = 2 * ROUNDING * max(1.0, limit)

    def reaches(
        self, alpha: Float32Array, beta: Float32Array, place: Int64Array, bar: Float64Array
    ) -> npt.NDArray[np.bool_]:
        """Whether rows reach a bar, float64, shape (h, S), in any segment."""
        ends = self.p[:, place] * alpha + self.r[:, place] * beta  # (S + 1, h)
        return np.asarray((np.maximum(ends[:-1], ends[1:]) >= bar.T).any(axis=0))


def _rising(
    questions: Float32Array,
    base: Float32Array,
    moved: Int64Array,
    moves: Moves,
    segments: _Segments,
    best: Float64Array,
    device: str,
) -> tuple[tuple[Int64Array, Int64Array], Float64Array]:
    """Pairs of question and moved row that reach the best k in some segment, and the bar in each, shape (m, S)."""
    scorer = FloatProduct(questions, device)
    k = best.shape[1]
    held = torch.from_numpy(best.astype(np.float32)).to(device)[:, None].repeat(1, segments.count, 1)  # (m, S, k)
    p, r = (torch.from_numpy(factor.astype(np.float32)).to(device) for factor in (segments.p, segments.r))
    question, place = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    about = [np.empty((2, 0), dtype=np.float32)]
    for part in blocks(len(moved), _rows_at_once(len(questions) * 8, device)):
        alpha, beta = (scorer.scores(rows).codes for rows in (base[moved[part]], moves.directions[part]))  # (m, b)
        reached = torch.zeros_like(alpha, dtype=torch.bool)
        start = alpha
        for segment in range(segments.count):
            end = torch.addcmul(alpha * p[segment + 1, part], beta, r[segment + 1, part])
            low = torch.minimum(start, end)
            leaders = _leaders(low, k)[0]
            leaders = torch.where(leaders < 0, leaders / segments.bend, leaders) - segments.wrong
            held[:, segment] = torch.cat([held[:, segment], leaders], dim=1).topk(k, dim=1).values
            reached |= torch.maximum(start, end) >= _bar(held[:, segment, -1:], segments)
            start = end
        found = reached.nonzero(as_tuple=True)
        question.append(found[0].cpu().numpy())
        place.append(found[1].cpu().numpy() + part.start)
        about.append(torch.stack([alpha[found], beta[found]]).cpu().numpy())
    bar = _bar(held[:, :, -1], segments).cpu().numpy().astype(np.float64)
    asks, at = np.concatenate(question), np.concatenate(place)
    # The bar has risen since the first blocks were looked at.
    first, second = np.concatenate(about, axis=1)
    kept = segments.reaches(first, second, at, bar[asks])
    return (asks[kept], at[kept]), bar


def _bar(floor: torch.Tensor, segments: _Segments) -> torch.Tensor:
    return torch.where(floor > 0, floor * segments.bend, floor) - segments.wrong


def _best_of(
    questions: Float32Array, base: Float32Array, stays: npt.NDArray[np.bool_], k: int, device: str, first: int
) -> tuple[Int64Array, Int64Array, Float64Array]:
    scorer = product(questions, device)
    best = torch.full((len(questions), k), -torch.inf, device=device)
    question, row = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    highest = [np.empty(0, dtype=np.float32)]
    for part in blocks(len(base), _rows_at_once(len(questions), device)):
        rows = np.flatnonzero(stays[part]) + part.start
        if len(rows) == 0:
            continue
        scores = scorer.scores(base[part] if len(rows) == part.stop - part.start else base[rows])
        leaders, groups = _leaders(scores.codes, k)
        leading = leaders * scores.unit
        low = torch.where(leaders == 0, -1.0, leading) - scores.wrong
        best = torch.cat([best, low], dim=1).topk(k, dim=1).values
        bar = best[:, -1:] - scores.wrong
        asks, group = (leading >= bar).nonzero(as_tuple=True)
        about = groups[asks, :, group] * scores.unit[asks]
        hit, inside = (about >= bar[asks]).nonzero(as_tuple=True)
        place = (inside * groups.shape[2] + group[hit]).cpu().numpy()
        real = place < len(rows)
        question.append(asks[hit].cpu().numpy()[real])
        row.append(rows[place[real]])
        highest.append((about[hit, inside] + scores.wrong[asks[hit], 0]).cpu().numpy()[real])
    asking, found, high = np.concatenate(question), np.concatenate(row), np.concatenate(highest)
    reaching = high >= best[:, -1].cpu().numpy()[asking]
    asking, found, high = asking[reaching], found[reaching], high[reaching]
    # The exact k-th score of the most promising rows is a sharper bar for the others.
    promising = _some_best(asking, high, k)
    similarity = np.full(len(found), -np.inf)
    similarity[promising] = exact(questions, base, asking[promising], found[promising])
    surely = np.full(len(questions), np.inf)
    np.minimum.at(surely, asking[promising], similarity[promising])
    others = ~promising & (high >= surely[asking])
    similarity[others] = exact(questions, base, asking[others], found[others])
    scored = promising | others
    asking, found, similarity = asking[scored], found[scored], similarity[scored]
    kept = _rank(asking, similarity, found) < k
    asking, found, similarity = asking[kept], found[kept], similarity[kept]
    order = np.lexsort((found, asking))
    return asking[order] + first, found[order], similarity[order]


def _leaders(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of each group of columns, shape (m, g), and the groups, shape (m, s, g), filled up with the lowest.

    Any k columns give a floor for the k-th best; the best of each group give a good one for less than sorting.
    """
    size = 1 << max(1, min(_GROUP, scores.shape[1] // (8 * k))).bit_length() - 1
    short = -scores.shape[1] % size
    if short:
        lowest = -torch.inf if scores.is_floating_point() else 0
        scores = torch.nn.functional.pad(scores, (0, short), value=lowest)
    groups = scores.view(len(scores), size, -1)
    best = groups
    # By halves, since amax takes 8-bit integers one at a time: 5.6 ms for 4 M of them instead of .4.
    while best.shape[1] > 1:
        half = best.shape[1] // 2
        best = torch.maximum(best[:, :half], best[:, half:])
    return best[:, 0], groups


def _rows_at_once(scores: int, device: str) -> int:
    """Rows of a block, whole groups, where a row has so many scores."""
    rows = scores_at_once(device) // scores
    return max(_GROUP, rows - rows % _GROUP)


def _some_best(question: Int64Array, scores: Float32Array, k: int) -> npt.NDArray[np.bool_]:
    """Some k best of each question's rows, by scores from -2 to 2; of equal ones, any."""
    return np.asarray(_places(question, np.argsort(question * 4.0 - scores)) < k)


def _rank(question: Int64Array, scores: Float64Array, rows: Int64Array) -> Int64Array:
    """Place of each row within its question, 0 for the best; equal scores by lower row."""
    return _places(question, np.lexsort((rows, -scores, question)))


def _places(question: Int64Array, order: npt.NDArray[np.intp]) -> Int64Array:
    """Place of each row within its question, by an order of all rows that keeps questions together."""
    ordered = question[order]
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return places
