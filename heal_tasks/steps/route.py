"""Step route: choose nothing, nudge or realign by the new documents, their fit to the topics and the drift so far."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from heal_tasks.nudge.probe import KEPT
from heal_tasks.nudge.route import KNOWN_FIT, Route, RouteFacts, choose_route, skip_training
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.probes import DISPLACEMENT, probe_change
from heal_tasks.steps.vectors.new_stems import count_new_stems
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.documents import Changes
from heal_tasks.store.documents.topics import TopicRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

LOOKED_AT = 1000
"""Touched chunks, at most, that are searched for stems which the live lexicon lacks."""


def decide(context: Context, arrived: Changes) -> tuple[Route, RouteFacts]:
    """Choose the route after this run's ingest has stored ``arrived``, and the facts it was chosen from."""
    settings, active = context.settings, GenerationRepository(context.conn).active()
    # A realignment that the gate refused counts too, or an old generation would be realigned every night in vain.
    runs = RunRepository(context.conn)
    last = runs.last_realignment()
    aligned_at = last.ended_at if last else None
    pending = Corpus(context.conn).pending(active.generation_id if active else None, aligned_at)
    facts = RouteFacts(
        documents=pending.documents,
        new=arrived.new,
        changed=arrived.changed,
        deleted=arrived.deleted,
        changed_share=pending.moved / max(pending.documents, 1),
        active_generation=active.generation_id if active else None,
        has_topics=bool(active and active.topic_run_id),
        generation_age_days=runs.age_s(aligned_at) / 86400 if aligned_at else None,
        misfits=_misfits(context, active, aligned_at) if pending.chunks else None,
        fruitless_cause=last.cause if last and not last.promoted else None,
        model=settings.model_uri,
        aligned_model=last.model if last else None,
        hide_words=bool(settings.public_words and active and active.lexicon and not active.public_words),
        pending=pending.chunks + pending.superseded,
        forced=settings.force_route,
        asked=NudgeState(context.conn, active).asked() if active else 0,
        new_stems=_new_stems(context, active) if active and not pending.chunks else 0,
        **_drift(context, active),
        **_training(context),
    )
    chosen = choose_route(
        facts, max_changed_share=settings.nudge_max_changed_share, max_age_days=settings.realign_max_age_days
    )
    return chosen, facts


def route(context: Context) -> Outcome:
    """Choose the route and record it, as ref ``route`` too, with every number it was chosen from."""
    if context.settings.dry_run:  # step ingest has chosen and recorded it, before its rollback
        return Outcome(refs={"route": "nothing"}, note=f"nothing: {context.manifest.text('dry_run')}")
    counts = {name: context.manifest.number(name) for name in ("new", "changed", "deleted")}
    arrived = Changes(**counts)
    chosen, facts = decide(context, arrived)
    skipped = skip_training(facts) if chosen.name == "realign" else ""
    reason = f"{chosen.reason} {skipped}".strip()
    RunRepository(context.conn).set_route(context.run_id, chosen.name, reason, {**asdict(facts), "cause": chosen.cause})
    refs: dict[str, int | str] = {"route": chosen.name, "skip_training": skipped}
    return Outcome(refs=refs, counts={"pending": facts.pending}, note=f"{chosen.name}: {reason}")


def _drift(context: Context, active: Generation | None) -> dict[str, Any]:
    """The angle of the live rows and the change in quality on the probes since the last realignment."""
    if active is None:
        return {}
    drift = {"displacement": float(active.metrics.get(DISPLACEMENT, 0.0))}
    change = probe_change(NudgeState(context.conn, active).probes(KEPT), context.settings)
    return drift | ({"probe_change": change.value, "probe_change_high": change.high} if change else {})


def _training(context: Context) -> dict[str, Any]:
    """The trained models that were refused in a row, and the share of material that is new since the last."""
    refused, trained_at = RunRepository(context.conn).refused_trainings()
    base = SpaceRepository(context.conn).find_by_uri(context.settings.model_uri)
    if trained_at is None or base is None or base.created_at > trained_at:  # none, or none of this base model
        return {}
    corpus = Corpus(context.conn)
    pending = corpus.pending(None, trained_at)
    documents = pending.moved / max(pending.documents, 1)
    return {"refused_trainings": refused, "new_material": max(documents, corpus.new_questions(trained_at))}


def _new_stems(context: Context, active: Generation) -> int:
    """The number of stems of served chunks that the live lexicon lacks: a document has got another language."""
    # Ids are hashes, so the first ones are a sample.
    touched = NudgeState(context.conn, active).touched()[:LOOKED_AT]
    return count_new_stems(context.conn, active, touched)


def _misfits(context: Context, active: Generation | None, since: datetime | None) -> int | None:
    """The number of documents, new or changed ``since`` the last realignment, that fit no topic of the live tree."""
    if active is None or active.topic_run_id is None:
        return None
    topics = TopicRepository(context.conn)
    run, public = topics.get(active.topic_run_id), context.settings.public_words
    _, texts = Corpus(context.conn).texts(unlabelled_in=run.topic_run_id, since=since, public=public)
    if not texts or not context.artifacts.exists(run.uri):
        return None
    from heal_tasks.topics.tree import TopicTree

    projection = TopicTree.load(context.artifacts.local(run.uri)).project(texts)
    return int((projection.residual > topics.known_residual(run.topic_run_id, KNOWN_FIT, public=public)).sum())


ROUTE = Step("route", route, None)
