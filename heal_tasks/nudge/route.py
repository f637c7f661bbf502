"""Chooses the route of a run, nothing, nudge or realign, with the reason as one sentence.

A nudge keeps the topics and the model of the last realignment. So a realignment is due when too many documents have
changed since, when new documents fit the topics badly, when rows have moved far, when a fixed set of questions finds
its answers less well, or after some days.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

from heal_tasks.core.errors import InputError

RouteName = Literal["nothing", "nudge", "realign"]


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """Counts, age and drift from which the route is chosen.

    Args:
        documents: documents in the store, without deleted ones.
        new: documents that arrived in this run.
        changed: documents whose text changed in this run.
        deleted: documents that were removed in this run.
        changed_share: new, changed and deleted documents since the last realignment, divided by the documents now.
        active_generation: id of the live generation; None before the first.
        generation_age_days: days since the last realignment; None before the first.
        residual_excess: relative residual of new documents in the topic tree less that of known ones; None if not
            measured.
        pending: chunks that the live generation lacks, and chunks that it serves although their text is gone.
        forced: ``auto``, or the route to take whatever the facts.
        displacement: mean angle over all rows, in radians, that they have moved since the last realignment; a row that
            moves there and back counts twice.
        probe_change: change of nDCG@10 on the live generation's fixed questions since the last realignment; None if it
            has none.
        probe_change_high: upper end of the 95 % interval of ``probe_change``.
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
    """Choose the route, and give its reason.

    Args:
        facts: counts, age and drift.
        max_changed_share: largest share of changed documents for a nudge.
        max_age_days: age of the live generation from which it is realigned, even if nothing changed.
        max_residual: largest residual excess for a nudge.
        max_displacement: largest mean angle that rows may have moved for a nudge, in radians.
        max_loss: largest fall of nDCG@10 on the fixed questions for a nudge; a fall counts only where its whole
            interval is below zero.

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
    change, high = facts.probe_change, facts.probe_change_high
    reason = None
    if facts.changed_share > max_changed_share:
        reason = (
            f"{facts.changed_share:.1%} of the documents changed since the last realignment, more than the "
            f"{max_changed_share:.1%} up to which {live} is nudged."
        )
    elif facts.residual_excess is not None and facts.residual_excess > max_residual:
        reason = (
            f"New documents fit the topics of {live} worse than known ones by {facts.residual_excess:.3f} in relative "
            f"residual, more than the allowed {max_residual:.3f}."
        )
    elif facts.displacement > max_displacement:
        reason = (
            f"The rows of {live} have moved by {facts.displacement:.3f} radians on average since the last realignment, "
            f"more than the allowed {max_displacement:.3f}."
        )
    elif change is not None and high is not None and change < -max_loss and high < 0:
        reason = (
            f"On its fixed questions {live} has changed by {change:+.4f} nDCG@10 since the last realignment (95 % "
            f"interval up to {high:+.4f}); {-max_loss:+.4f} is allowed."
        )
    elif facts.generation_age_days is not None and facts.generation_age_days >= max_age_days:
        reason = f"{live.capitalize()} is {facts.generation_age_days:.1f} days old and due after {max_age_days:g}."
    if reason:
        return Route("realign", reason)
    if facts.new + facts.changed + facts.deleted + facts.pending == 0:
        return Route("nothing", f"No document is new, changed or deleted, and {live} has every vector.")
    return Route(
        "nudge",
        f"{_counts(facts)}; {facts.changed_share:.1%} changed since the last realignment is within "
        f"{max_changed_share:.1%}, so {live} is nudged.",
    )


def _forced(facts: RouteFacts) -> Route:
    if facts.forced == "nudge" and facts.active_generation is None:
        return Route(
            "realign",
            f"The nudge route was forced, but no generation is live that could be nudged, so the {facts.documents} "
            "documents are realigned.",
        )
    return Route(cast(RouteName, facts.forced), f"The route {facts.forced} was forced by setting; {_counts(facts)}.")


def _counts(facts: RouteFacts) -> str:
    return (
        f"{facts.new} new, {facts.changed} changed and {facts.deleted} deleted of {facts.documents} documents, "
        f"{facts.pending} chunks to publish or to remove"
    )
