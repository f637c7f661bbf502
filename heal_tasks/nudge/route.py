"""Chooses the route of a run, nothing, nudge or realign, with the reason as one sentence.

A nudge keeps the topics and the model of the last realignment. So a realignment is due when too many documents have
changed since, when many new documents fit the topics badly, when rows have moved far, when a fixed set of questions
finds its answers less well, or after some days. If the last realignment had the same cause and changed nothing, the
next one waits until the measure is twice its limit, because it would most likely change nothing either.
"""

import math
from dataclasses import dataclass
from typing import Literal

RouteName = Literal["nothing", "nudge", "realign"]
Cause = Literal["share", "topics", "angle", "loss", "age", "other"]
"""Cause of a realignment; ``other`` is a first one, or a forced one."""

KNOWN_FIT = 0.9
"""A new document fits no topic if its residual is larger than those of this share of the known documents. Measured on
1,500 pages of Python documentation: of a package left out of the tree 64 % of the pages are such documents (SQLAlchemy;
pandas and rich, which share words with others, 22 and 21 %), of held-out pages of the other packages 9 to 16 %."""
MISFITS, MISFIT_SHARE = 8, 0.02
"""Documents that fit no topic, and their share of all documents, from which a realignment is due. NMFk accepts no topic
of fewer than 8 documents, and of 10 % ordinary new documents 16 % are 1.6 % of all."""
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
    misfits: int | None  # documents new or changed since the last realignment that fit no topic; None if not measured
    pending: int  # chunks that the live generation lacks, and those that it serves although their text is gone
    forced: Literal[RouteName, "auto"]  # the route to take whatever the facts
    asked: int = 0  # chunks with human questions that no row has been moved by yet
    new_stems: int = 0  # word stems of served chunks that the live lexicon lacks; 0 while chunks are pending
    displacement: float = 0.0  # mean angle over all rows that they have moved, in radians; back and forth adds up
    probe_change: float | None = None  # of nDCG@10 on the live generation's fixed questions; None if it has none
    probe_change_high: float | None = None  # upper end of the 95 % interval of probe_change
    fruitless_cause: str | None = None  # cause of the last realignment if no candidate was promoted by it
    model: str = ""  # the base model of the settings
    aligned_model: str | None = None  # that of the last realignment; None before the first
    hide_words: bool = False  # if the live topics and lexicon are to be of public documents alone, and are of all
    refused_trainings: int = 0  # trained models since the last one that was promoted
    new_material: float = (
        1.0  # share of new or changed documents, or of new questions if larger, since the last training
    )


@dataclass(frozen=True, slots=True)
class Route:
    """A route and its reason, one sentence or two."""

    name: RouteName
    reason: str
    cause: Cause = "other"  # of a realignment


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
    if facts.aligned_model not in (None, facts.model):
        return Route(
            "realign",
            f"HEAL_MODEL was {facts.aligned_model} at the last realignment and is {facts.model}; the vectors of both "
            "have to be compared.",
        )
    if facts.hide_words:
        return Route(
            "realign",
            f"HEAL_PUBLIC_WORDS is true, and the topics and the lexicon of {live} are made of all documents.",
        )
    if due := _due(facts, max_changed_share, facts.fruitless_cause, live):
        return due
    age, waits = facts.generation_age_days, ""
    if age is not None and age >= max_age_days:
        reason = f"{live.capitalize()} is {age:.1f} days old and due after {max_age_days:g}."
        return Route("realign", reason, "age")
    if held_back := _due(facts, max_changed_share, None, live):
        limit = {
            "share": f"{2 * max_changed_share:.1%} of the documents have changed",
            "topics": f"{2 * _fewest_misfits(facts)} documents fit no topic",
            "angle": f"the rows have moved by {2 * MAX_ANGLE:.3f} radians",
            "loss": f"the change is {-2 * MAX_LOSS:+.4f}",
        }[held_back.cause]
        waits = (
            f" {held_back.reason} But the last realignment had the same cause, and no candidate was promoted by it, so "
            f"the next one is due when {limit}, or at an age of {max_age_days:g} days."
        )
    if facts.new + facts.changed + facts.deleted + facts.pending + facts.asked + facts.new_stems == 0:
        return Route("nothing", f"No document is new, changed or deleted, and {live} has every vector.{waits}")
    within = (
        "" if waits else f"; {facts.changed_share:.1%} changed since the last realignment is within "
        f"{max_changed_share:.1%}"
    )  # fmt: skip
    return Route("nudge", f"{_counts(facts)}{within}, so {live} is nudged.{waits}")


def _due(facts: RouteFacts, max_changed_share: float, patient: str | None, live: str) -> Route | None:
    """The realignment that counts and drift call for, or None; the limit of the cause ``patient`` is twice as large."""

    def limit(cause: Cause, value: float) -> float:
        return 2 * value if cause == patient else value

    change, high = facts.probe_change, facts.probe_change_high
    share, misfits = limit("share", max_changed_share), int(limit("topics", _fewest_misfits(facts)))
    angle, loss = limit("angle", MAX_ANGLE), -limit("loss", MAX_LOSS)
    if facts.changed_share > share:
        reason = (
            f"{facts.changed_share:.1%} of the documents changed since the last realignment, more than the "
            f"{share:.1%} up to which {live} is nudged."
        )
        return Route("realign", reason, "share")
    if facts.misfits is not None and facts.misfits >= misfits:
        reason = (
            f"{facts.misfits} documents that are new since the last realignment fit no topic of {live}; from "
            f"{misfits} on they may be a new topic."
        )
        return Route("realign", reason, "topics")
    if facts.displacement > angle:
        reason = (
            f"The rows of {live} have moved by {facts.displacement:.3f} radians on average since the last realignment, "
            f"more than the allowed {angle:.3f}."
        )
        return Route("realign", reason, "angle")
    if change is not None and high is not None and change < loss and high < 0:
        reason = (
            f"On its fixed questions {live} has changed by {change:+.4f} nDCG@10 since the last realignment (95 % "
            f"interval up to {high:+.4f}); {loss:+.4f} is allowed."
        )
        return Route("realign", reason, "loss")
    return None


def _fewest_misfits(facts: RouteFacts) -> int:
    return max(MISFITS, math.ceil(MISFIT_SHARE * facts.documents))


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
        + (f", {facts.asked} chunks with new questions" if facts.asked else "")
        + (f", {facts.new_stems} word stems that the lexicon lacks" if facts.new_stems else "")
    )
