"""Chooses tonight's path, nothing, nudge or realign, and gives the reason as one sentence with its numbers.

A nudge only ever adds to the topics and the model of the last realignment, so the share of changed documents, the
age, how badly new documents fit the old topics, how far rows have moved since and what became of a fixed set of
questions bound how long it may stand in for one.
"""

import math
from dataclasses import dataclass
from typing import Literal

from heal_tasks.core.errors import InputError

RouteName = Literal["nothing", "nudge", "realign"]


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """What the choice rests on.

    Args:
        documents: documents in the store, deleted ones not counted.
        new: documents that arrived in this run.
        changed: documents whose text changed in this run.
        deleted: documents that vanished in this run.
        changed_share: new, changed and deleted since the last realignment over documents then.
        active_generation: id of the live generation; None before the first.
        generation_age_days: its age in days; None before the first.
        residual_excess: how much worse new documents fit the topic tree than known ones; None where not measured.
        pending: chunks that the live generation lacks, and chunks that it still serves though their text is gone.
        forced: ``auto``, or the route that somebody asked for.
        displacement: angle that rows have moved since the last realignment, mean over all rows, in radians; a row that
            moves there and back counts twice.
        probe_change: change of nDCG@10 on the live generation's fixed questions since the last realignment; None
            where it has none.
        probe_change_high: upper end of its 95 % interval.
    """

    documents: int
    new: int
    changed: int
    deleted: int
    changed_share: float
    active_generation: int | None
    generation_age_days: float | None
    residual_excess: float | None
    pending: int
    forced: str
    displacement: float = 0.0
    probe_change: float | None = None
    probe_change_high: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A route and its reason, one sentence."""

    name: RouteName
    reason: str


def choose_route(
    facts: RouteFacts,
    *,
    max_changed_share: float,
    max_age_days: float,
    max_residual: float,
    max_displacement: float,
    max_loss: float,
) -> Route:
    """Choose the route.

    Args:
        facts: counts, drift and age.
        max_changed_share: share of changed documents up to which a nudge will do.
        max_age_days: age of the live generation from which it is realigned, even if nothing changed.
        max_residual: residual excess up to which new documents still fit the topics.
        max_displacement: displacement up to which rows may be moved on.
        max_loss: fall of nDCG@10 on the fixed questions up to which the live generation is kept; a fall counts only
            where its whole interval is below zero.

    Returns:
        The route with its reason.

    Raises:
        InputError: an unknown forced route, or a changed share that is not a number.
    """
    if facts.forced not in ("auto", "nothing", "nudge", "realign"):
        raise InputError(f"unknown forced route {facts.forced!r}; take auto, nothing, nudge or realign")
    if math.isnan(facts.changed_share):
        raise InputError("the share of changed documents is not a number; count the documents again")
    if facts.documents == 0:
        return Route("nothing", "There are no documents in the store, so there is nothing to align.")
    if facts.forced != "auto":
        return _forced(facts)
    if facts.active_generation is None:
        return Route("realign", f"No generation is live yet and {facts.documents} documents are waiting for one.")
    live = f"generation {facts.active_generation}"
    if facts.changed_share > max_changed_share:
        return Route(
            "realign",
            f"{facts.changed_share:.1%} of the documents changed since the last realignment, more than the "
            f"{max_changed_share:.1%} up to which {live} is nudged.",
        )
    if facts.residual_excess is not None and facts.residual_excess > max_residual:
        return Route(
            "realign",
            f"New documents fit the topics of {live} worse than known ones by {facts.residual_excess:.3f} in relative "
            f"residual, more than the allowed {max_residual:.3f}.",
        )
    if facts.displacement > max_displacement:
        return Route(
            "realign",
            f"The rows of {live} have moved by {facts.displacement:.3f} radians on average since the last realignment, "
            f"more than the allowed {max_displacement:.3f}.",
        )
    if _has_lost(facts, max_loss):
        return Route(
            "realign",
            f"On its fixed questions {live} has changed by {facts.probe_change:+.4f} nDCG@10 since the last "
            f"realignment (95 % interval up to {facts.probe_change_high:+.4f}); {-max_loss:+.4f} is allowed.",
        )
    if facts.generation_age_days is not None and facts.generation_age_days >= max_age_days:
        return Route(
            "realign",
            f"{live.capitalize()} is {facts.generation_age_days:.1f} days old and due after {max_age_days:g}.",
        )
    if facts.new + facts.changed + facts.deleted + facts.pending == 0:
        return Route("nothing", f"No document is new, changed or deleted, and {live} has every vector.")
    return Route(
        "nudge",
        f"{_counts(facts)}; {facts.changed_share:.1%} changed since the last realignment is within "
        f"{max_changed_share:.1%}, so {live} is nudged.",
    )


def _has_lost(facts: RouteFacts, max_loss: float) -> bool:
    change, high = facts.probe_change, facts.probe_change_high
    return change is not None and high is not None and change < -max_loss and high < 0


def _forced(facts: RouteFacts) -> Route:
    if facts.forced == "nudge" and facts.active_generation is None:
        return Route(
            "realign",
            f"The nudge route was forced, but no generation is live that could be nudged, so the {facts.documents} "
            "documents are realigned.",
        )
    name: RouteName = "nothing" if facts.forced == "nothing" else "nudge" if facts.forced == "nudge" else "realign"
    return Route(name, f"The route {name} was forced by setting; {_counts(facts)}.")


def _counts(facts: RouteFacts) -> str:
    return (
        f"{facts.new} new, {facts.changed} changed and {facts.deleted} deleted of {facts.documents} documents, "
        f"{facts.pending} chunks to publish or to remove"
    )
