"""Candidates compared with their rival: the gate's verdict, rows of ``heal.evaluation``, order of candidates."""

import math
from dataclasses import replace

import numpy as np

from heal_tasks.core.metrics import NDCG, TOPIC_AGREEMENT, Metric, metric_name
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.bootstrap import Interval, mean_interval, paired_difference
from heal_tasks.evaluation.gate import SetComparison, Verdict, decide
from heal_tasks.steps.quality.scoring import BY_ENCODER, BY_TEXT, HUMAN, TOPICS, Scores, held_out
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable
from heal_tasks.store.questions.rank_changes import RankChange
from heal_tasks.store.runs.runs import EvaluationRow

MAX_WRITTEN_LOSS = 0.2
"""Loss in nDCG@10 on generated questions that is tolerated where human questions decide. Words differ: where human
questions gain .26 (ATT&CK) and .09 (NFCorpus) by NUDGE, generated ones lose .06 to .10."""
MAX_ANSWERS_LOSS = 0.05
"""Loss in nDCG@10 that is tolerated where topics are the only goal: the store is still searched."""

MOST_CHANGES = 20
"""Questions that gained, and as many that lost, whose ranks are stored."""


def compare(candidate: Scores, rival: Scores, settings: Settings) -> Verdict:
    """Let the gate decide between a candidate and its rival."""
    comparisons = [
        SetComparison(name, _apart(candidate, rival, name, settings), tolerance, metric_name(metric_of(name)))
        for name, tolerance in _tolerances(candidate, settings).items()
        if name in rival.values
    ]
    return decide(comparisons, epsilon=settings.gate_epsilon, min_questions=settings.gate_min_questions)


def compare_for_drop(after: Scores, before: Scores, settings: Settings) -> str:
    """The sets that are shown to lose more than is tolerated, as a phrase for readers; empty if none is.

    Of a set that decides a loss within ``gate_epsilon`` is tolerated, as in the gate. There a candidate has to show
    that it loses no more; here the loss has to show.
    """
    fallen = []
    for name, tolerance in _tolerances(after, settings).items():
        if name not in before.values:
            continue
        apart = _apart(after, before, name, settings)
        if apart.high < -(settings.gate_epsilon if tolerance is None else tolerance):
            metric = metric_name(metric_of(name))
            fallen.append(f"{name}: {apart.value:+.4f} {metric} [{apart.low:+.4f}, {apart.high:+.4f}]")
    return "; ".join(fallen)


def evaluation_rows(scores: Scores, rival: Scores | None, settings: Settings) -> list[EvaluationRow]:
    """Rows of ``heal.evaluation``: metrics with intervals and differences to the rival, hierarchy."""
    rows = []
    for name, metrics in scores.values.items():
        groups = scores.documents[name]
        blank = EvaluationRow(
            scores.generation_id, scores.system, name, "", 0.0, None, None, None, None, None, None, len(groups)
        )
        for metric, values in metrics.items():
            own = mean_interval(values, seed=settings.seed, groups=groups)
            row = replace(blank, metric=metric, value=own.value, low=own.low, high=own.high)
            if rival and name in rival.values:
                apart = _apart(scores, rival, name, settings, metric)
                row = replace(row, rival=rival.system, difference=apart.value, diff_low=apart.low, diff_high=apart.high)
            rows.append(row)
        hierarchy = scores.hierarchy.get(name, {})
        rows += [replace(blank, metric=f"hierarchical_{item}", value=value) for item, value in hierarchy.items()]
    return rows


def rank_changes(after: Scores, before: Scores, questions: QuestionTable, chunks: ChunkTable) -> list[RankChange]:
    """The held-out questions whose first right answer rose or fell most, by reciprocal rank, at most so many each.

    They are searched by text where both systems can be, otherwise by the encoder's vector.
    """
    rose, fell = list[tuple[float, RankChange]](), list[tuple[float, RankChange]]()
    for name, key in held_out(questions, chunks).items():
        path = BY_TEXT if name + BY_TEXT in after.values.keys() & before.values.keys() else BY_ENCODER
        old, new = (scores.values[name + path]["mrr@10"] for scores in (before, after))
        for row in np.flatnonzero(old != new):
            ranks = (round(1 / value) if value else None for value in (old[row], new[row]))
            question = int(questions.question_ids[key.rows[row]])
            change = RankChange(question, "text" if path == BY_TEXT else "encoder", *ranks)
            (rose if new[row] > old[row] else fell).append((-abs(new[row] - old[row]), change))
    return [
        change
        for changes in (rose, fell)
        for _, change in sorted(changes, key=lambda item: (item[0], item[1].question_id))[:MOST_CHANGES]
    ]


def is_judged(scores: Scores, settings: Settings) -> bool:
    """True if there is any set that can vote in the gate."""
    return any(tolerance != math.inf for tolerance in _tolerances(scores, settings).values())


def mean_quality(scores: Scores, settings: Settings, rival: Scores | None = None) -> float:
    """Mean of the sets that decide in the gate, or of all that vote if none decides; ranks candidates.

    Of two goals each counts a half. With a rival only the sets that it has, too, count: a system without lexicon has
    none by text.
    """
    tolerances, least = _tolerances(scores, settings), settings.gate_min_questions
    tolerances = {name: tolerances[name] for name in tolerances if rival is None or name in rival.values}
    deciding = [name for name in tolerances if tolerances[name] is None and len(scores.documents[name]) >= least]
    names = deciding or [name for name in tolerances if tolerances[name] != math.inf]
    means = {name: float(scores.values[name][metric_of(name)].mean()) for name in names}
    goals = [[mean for name, mean in means.items() if (name == TOPICS) is topics] for topics in (False, True)]
    return float(np.mean([np.mean(goal) for goal in goals if goal]))


def metric_of(name: str) -> Metric:
    """The metric that a set is judged by."""
    return TOPIC_AGREEMENT if name == TOPICS else NDCG


def _tolerances(scores: Scores, settings: Settings) -> dict[str, float | None]:
    """The tolerated loss of each set; None for one that decides, inf for one that is no goal.

    Of the question sets human questions decide, if there are enough.
    """
    goal, people = settings.gate_goal, len(scores.documents.get(HUMAN, ())) >= settings.gate_min_questions

    def tolerance(name: str) -> float | None:
        if name == TOPICS:
            return math.inf if goal == "answers" else None
        if people and HUMAN not in name:
            return MAX_WRITTEN_LOSS
        return MAX_ANSWERS_LOSS if goal == "topics" else None

    return {name: tolerance(name) for name in scores.values}


def _apart(a: Scores, b: Scores, name: str, settings: Settings, metric: str = "") -> Interval:
    metric = metric or metric_of(name)
    ours, theirs = a.values[name][metric], b.values[name][metric]
    return paired_difference(ours, theirs, seed=settings.seed, groups=a.documents[name])
