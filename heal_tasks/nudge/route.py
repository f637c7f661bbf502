"""Chooses tonight's path, nothing, nudge or realign, and gives the reason as one sentence with its numbers.

A nudge only ever adds to the topics and the model of the last realignment, so the share of changed documents, the
age, and how badly new documents fit the old topics bound how long it may stand in for one.
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


@dataclass(frozen=True, slots=True)
class Route:
    """A route and its reason, one sentence."""

    name: RouteName
    reason: str


def choose_route(facts: RouteFacts, *, max_changed_share: float, max_age_days: float, max_residual: float) -> Route:
    """Choose the route.

    Args:
        facts: counts, drift and age.
        max_changed_share: share of changed documents up to which a nudge will do.
        max_age_days: age of the live generation from which it is realigned, even if nothing changed.
        max_residual: residual excess up to which new documents still fit the topics.

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
