"""Chooses the route of a run, nothing, nudge or realign, with the reason as one sentence.

A nudge keeps the topics and the model of the last realignment. So a realignment is due when too many documents have
changed since, when new documents fit the topics badly, when rows have moved far, when a fixed set of questions finds
its answers less well, or after some days.
"""

from dataclasses import dataclass
from typing import Literal

RouteName = Literal["nothing", "nudge", "realign"]

MAX_RESIDUAL = 0.15
"""Excess of new documents' mean relative residual on the topic tree over that of known ones: topics are missing."""
MAX_ANGLE = 0.1
"""Mean angle in radians that rows have moved since the last realignment."""
MAX_LOSS = 0.01
"""Loss in nDCG@10 on the fixed questions since the last realignment; counts where its whole interval is below zero."""

TRAINING_PATIENCE = 3
"""Trained models in a row that the gate refused, after which a realignment trains again only for new material."""
NEW_MATERIAL = 0.1
"""Share of new or changed documents, or of new questions, since the last training that is new material for one."""


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """Counts, age and drift from which the route is chosen; age and drift are those since the last realignment."""

    documents: int  # documents in the store, without deleted ones
    new: int  # documents that arrived in this run
    changed: int  # documents whose text changed in this run
    deleted: int  # documents that were removed in this run
    changed_share: float  # documents that are new, changed or deleted since the last realignment, by documents now
    active_generation: int | None  # id of the live generation; None before the first
    has_topics: bool  # False for a live generation from step first_light whose run went no further
    generation_age_days: float | None  # None before the first realignment
    residual_excess: float | None  # relative residual of new documents less that of known ones; None if not measured
    pending: int  # chunks that the live generation lacks, and those that it serves although their text is gone
    forced: Literal[RouteName, "auto"]  # the route to take whatever the facts
    displacement: float = 0.0  # mean angle over all rows that they have moved, in radians; back and forth adds up
    probe_change: float | None = None  # of nDCG@10 on the live generation's fixed questions; None if it has none
    probe_change_high: float | None = None  # upper end of the 95 % interval of probe_change
    refused_trainings: int = 0  # trained models since the last one that was promoted
    new_material: float = (
        1.0  # share of new or changed documents, or of new questions if larger, since the last training
    )


@dataclass(frozen=True, slots=True)
class Route:
    """A route and its reason, one sentence."""

    name: RouteName
    reason: str


def choose_route(facts: RouteFacts, *, max_changed_share: float, max_age_days: float) -> Route:
    """Choose the route, and give its reason.

    Args:
        facts: counts, age and drift.
        max_changed_share: largest share of changed documents for a nudge.
        max_age_days: age of the live generation from which it is realigned, even if nothing changed.
    """
    if facts.documents == 0:
        return Route("nothing", "There are no documents in the store, so there is nothing to align.")
    if facts.forced == "nudge" and (facts.active_generation is None or not facts.has_topics):
        return Route(
            "realign",
            f"The nudge route was forced, but no generation with topics is live that could be nudged, so the "
            f"{facts.documents} documents are realigned.",
        )
    if facts.forced != "auto":
        return Route(facts.forced, f"The route {facts.forced} was forced by setting; {_counts(facts)}.")
    if facts.active_generation is None:
        return Route("realign", f"No generation is live yet and {facts.documents} documents are waiting for one.")
    live = f"generation {facts.active_generation}"
    if not facts.has_topics:
        return Route("realign", f"{live.capitalize()} has the base model's vectors and no topics yet.")
    change, high = facts.probe_change, facts.probe_change_high
    reason = None
    if facts.changed_share > max_changed_share:
        reason = (
            f"{facts.changed_share:.1%} of the documents changed since the last realignment, more than the "
            f"{max_changed_share:.1%} up to which {live} is nudged."
        )
    elif facts.residual_excess is not None and facts.residual_excess > MAX_RESIDUAL:
        reason = (
            f"New documents fit the topics of {live} worse than known ones by {facts.residual_excess:.3f} in relative "
            f"residual, more than the allowed {MAX_RESIDUAL:.3f}."
        )
    elif facts.displacement > MAX_ANGLE:
        reason = (
            f"The rows of {live} have moved by {facts.displacement:.3f} radians on average since the last realignment, "
            f"more than the allowed {MAX_ANGLE:.3f}."
        )
    elif change is not None and high is not None and change < -MAX_LOSS and high < 0:
        reason = (
            f"On its fixed questions {live} has changed by {change:+.4f} nDCG@10 since the last realignment (95 % "
            f"interval up to {high:+.4f}); {-MAX_LOSS:+.4f} is allowed."
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


def skip_training(facts: RouteFacts) -> str:
    """The reason why a realignment needs no training, as a sentence; empty if it trains."""
    if facts.forced != "auto" or facts.refused_trainings < TRAINING_PATIENCE or facts.new_material >= NEW_MATERIAL:
        return ""
    return (
        f"No training: the last {facts.refused_trainings} trained models were not promoted, and only "
        f"{facts.new_material:.1%} of documents or questions are new since; {NEW_MATERIAL:.0%} would be a reason."
    )


def _counts(facts: RouteFacts) -> str:
    return (
        f"{facts.new} new, {facts.changed} changed and {facts.deleted} deleted of {facts.documents} documents, "
        f"{facts.pending} chunks to publish or to remove"
    )
