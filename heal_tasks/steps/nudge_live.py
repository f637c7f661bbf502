"""Step nudge_live: new documents published in the live generation, and the rows that their questions touch moved.

A row is a function of its own base vector, its own questions and the generation's nudge record, so with a record only
touched rows are computed. Without one, validation looks for a record among all rows. Both paths judge before they
write, so a drop in quality leaves nothing to restore.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np

from heal_tasks.core.errors import StepError
from heal_tasks.nudge.apply import recompute
from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.nudge.probe import KEPT
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.comparing import compare_for_drop, evaluation_rows
from heal_tasks.steps.quality.measurable import why_unmeasured
from heal_tasks.steps.quality.probes import (
    DISPLACEMENT,
    changed_places,
    choose_probes,
    followed,
    probe_scores,
    rank_anew,
    take,
)
from heal_tasks.steps.quality.scoring import Scores, System
from heal_tasks.steps.vectors.indexing import index_served
from heal_tasks.steps.vectors.moves import Moved, moved_copy, with_late
from heal_tasks.steps.vectors.new_stems import extend_lexicon
from heal_tasks.steps.vectors.spaces import LIVE_MODEL, Float32Array, Int64Array, live_generation, overlay, served
from heal_tasks.steps.vectors.systems import Systems, lexicon_record_of, make_generation, record_of
from heal_tasks.store.documents.chunks import purge_superseded
from heal_tasks.store.generations.contrast_state import ContrastRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState, Probes
from heal_tasks.store.generations.served import SAME_VECTOR, Served, ServedRepository, Upserted, served_rows
from heal_tasks.store.questions.placing import place_judgments
from heal_tasks.store.questions.question_counts import read_question_counts
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

REWRITE_SHARE = 0.03
"""Share of differing rows from which a new table costs less than rewritten rows and their vacuum (bench/RESULTS.md)."""
FEW_ROWS = 1000
"""Up to so many differing rows are updated in place, whatever their share: that takes less than a new index."""


@dataclass(frozen=True)
class _Published:
    """The result of one night."""

    written: Upserted
    computed: int  # rows
    worse: str  # the drop in quality as a phrase; empty if there was none
    theta: float
    judged: int  # questions that the rows were judged by


def nudge_live(context: Context) -> Outcome:
    """Publish new documents and move the rows that their questions touch, in the live generation.

    Ref ``went_live`` is the live generation if any of its rows have changed, or 0.
    """
    active, kept = live_generation(context), context.kept()
    if kept and kept["live"] == active.generation_id:  # an earlier attempt was killed after this
        done = _Published(**{**kept["done"], "written": Upserted(**kept["done"]["written"])})
        active = GenerationRepository(context.conn).get(kept["nudged"])
    else:
        done = _nudge(context, active)
    purged, written = purge_superseded(context.conn), done.written
    verdict = (
        f"{written.added} rows added, {written.changed} changed, {written.removed} removed; {done.computed} computed"
    )
    now = live_generation(context)
    if now.generation_id != active.generation_id and now.run_id != context.run_id:
        verdict = (
            f"generation {now.generation_id} went live while generation {active.generation_id} was being nudged; the "
            f"next run nudges it. In generation {active.generation_id}: {verdict}"
        )
    elif now.generation_id != active.generation_id:
        verdict += f"; so many changed that they were written to the new generation {now.generation_id}, which is live"
    if done.worse:
        verdict += (
            f"; the moved rows were worse ({done.worse}), so new documents are served un-nudged and the rest as before"
        )
    changed = written.added or written.changed or written.removed
    return Outcome(
        refs={
            "generation_id": now.generation_id, "went_live": now.generation_id if changed else 0, "verdict": verdict,
        },
        counts={
            "rows_added": written.added, "rows_changed": written.changed, "rows_removed": written.removed,
            "rows_computed": done.computed, "superseded_removed": purged, "theta": round(done.theta, 4),
            "refused": int(bool(done.worse)),
        },
        note=verdict,
        undone="" if done.judged else _why_unjudged(context),
    )  # fmt: skip


def _nudge(context: Context, active: Generation) -> _Published:
    GenerationRepository(context.conn).discard_unfinished(context.run_id)
    state, space = NudgeState(context.conn, active), SpaceRepository(context.conn).get(active.space_id)
    place_judgments(context.conn, space, state.touched())
    touched, probes = state.touched(), state.probes(KEPT)
    record = record_of(active)
    if record and len(probes.question_ids):
        return _touched_rows(context, active, record, touched, probes)
    return _all_rows(context, active, record, touched, probes)


def _why_unjudged(context: Context) -> str:
    unmeasured = why_unmeasured(read_question_counts(context.conn), context.settings)
    return f"The new rows were not judged: {unmeasured or 'no held-out question could be ranked without a full search'}"


def _touched_rows(
    context: Context, active: Generation, record: NudgeRecord, touched: Int64Array, probes: Probes
) -> _Published:
    """Compute the touched rows with the generation's record; judge by the probes."""
    repository, state = ServedRepository(context.conn), NudgeState(context.conn, active)
    rows = state.rows(touched)
    displacements = with_late(context.conn, active, rows, record).of(rows.chunk_ids)
    moved = recompute(rows.base, rows.questions, rows.answers, rows.shares, record, displacements)
    unmoved = overlay(rows.chunk_ids, rows.base, repository.load_served(active, touched))
    before, short_before = followed(probes, touched, rows.chunk_ids, unmoved)
    after, short_after = followed(probes, touched, rows.chunk_ids, moved)
    sure = np.setdiff1d(np.arange(len(probes.question_ids)), np.union1d(short_before, short_after))
    old = probe_scores(take(before, sure), "live before", active.generation_id)
    new = probe_scores(take(after, sure), "live after", active.generation_id)
    worse = _judge(context, old, new)
    kept, short, final = (before, short_before, unmoved) if worse else (after, short_after, moved)
    wanted = Served(rows.chunk_ids, rows.document_ids, rows.leaves, final)
    with context.conn.transaction():
        written = repository.upsert_served(active, wanted, touched)
        extend_lexicon(context.conn, active, rows.chunk_ids)
        if len(short):
            everything = repository.load_served(active)
            rank_anew(kept, short, everything.chunk_ids, everything.vectors)
        state.update_probes(take(kept, changed_places(probes, kept)))
        state.settle(_settled(touched, rows.chunk_ids, worse))
        total = next((row.rows for row in served_rows(context.conn) if row.generation_id == active.generation_id), None)
        _count_displacement(context, active.generation_id, unmoved, final, total or 0)
        done = _Published(written, len(touched), worse, record.theta, len(sure))
        _keep(context, active, active, done)
    return done


def _all_rows(
    context: Context, active: Generation, record: NudgeRecord | None, touched: Int64Array, probes: Probes
) -> _Published:
    """Compute every row: by the generation's record, or by one that validation finds."""
    repository, systems = ServedRepository(context.conn), Systems(context.conn, context.settings, active.topic_run_id)
    chunks, questions = systems.chunks, systems.questions
    plain = systems.plain(LIVE_MODEL, SpaceRepository(context.conn).get(active.space_id))
    live, search = repository.load_served(active), systems.stored_lexicon(active)
    if record:
        moved = systems.apply_record(record, plain, ContrastRepository(context.conn).load(active))
    else:
        moved = systems.find_moves(replace(plain, lexical=search))
    after, before = moved_copy(plain.chunks, moved), overlay(chunks.chunk_ids, plain.chunks.copy(), live)
    old = systems.score(System("live before", active.generation_id, plain.questions, before, search))
    new = systems.score(System("live after", active.generation_id, plain.questions, after, search))
    worse = _judge(context, old, new)
    final = before if worse else after
    wanted = served(chunks, final)
    if len(probes.question_ids):
        rank_anew(probes, np.arange(len(probes.question_ids)), chunks.chunk_ids, final)
    else:
        probes = choose_probes(questions, plain.questions, chunks, final)
    found = None if record or worse else moved.record
    theta = moved.record.theta if moved.record else 0.0
    if _is_rewrite(active, live, wanted, found):
        made = _write(context, systems, active, plain, wanted, probes, found or record, moved)
        left = np.setdiff1d(NudgeState(context.conn, active).touched(), _settled(touched, chunks.chunk_ids, worse))
        NudgeState(context.conn, made).touch(left)
        kept = len(np.intersect1d(wanted.chunk_ids, live.chunk_ids))
        written = Upserted(len(wanted.chunk_ids) - kept, kept, len(live.chunk_ids) - kept, 0)
        _count_displacement(context, made.generation_id, before, final, len(final))
        done = _Published(written, len(chunks.chunk_ids), worse, theta, _questions(old))
        _keep(context, active, made, done)
        GenerationRepository(context.conn).activate(made.generation_id)
    else:
        with context.conn.transaction():
            written = repository.upsert_served(active, wanted)
            extend_lexicon(context.conn, active, touched)
            state = NudgeState(context.conn, active)
            state.write_probes(probes)
            state.settle(_settled(touched, chunks.chunk_ids, worse))
            if found:
                active = GenerationRepository(context.conn).set_fields(active.generation_id, nudge=found.to_json())
                ContrastRepository(context.conn).write(active, moved.contrast)
            _count_displacement(context, active.generation_id, before, final, len(final))
            done = _Published(written, len(chunks.chunk_ids), worse, theta, _questions(old))
            _keep(context, active, active, done)
    return done


def _settled(touched: Int64Array, live: Int64Array, worse: str) -> Int64Array:
    """The touched chunks that are as they should be: all, or where the moved rows were worse those that are gone."""
    return np.setdiff1d(touched, live) if worse else touched


def _keep(context: Context, nudged: Generation, live: Generation, done: _Published) -> None:
    """Store the result of the night; ``live`` is the generation that is live once it is in effect."""
    context.keep({"nudged": nudged.generation_id, "live": live.generation_id, "done": asdict(done)})


def _is_rewrite(active: Generation, live: Served, wanted: Served, found: NudgeRecord | None) -> bool:
    """Return whether a new table is cheaper than rewriting rows where they are, or the only way."""
    if found and found.variant == "M" and active.metric == "cosine":
        return True
    _, here, there = np.intersect1d(wanted.chunk_ids, live.chunk_ids, return_indices=True)
    same = np.abs(wanted.vectors[here] - live.vectors[there]).max(axis=1, initial=0) <= SAME_VECTOR
    differing = len(wanted.chunk_ids) - int(same.sum())
    return differing > max(REWRITE_SHARE * len(wanted.chunk_ids), FEW_ROWS)


def _write(
    context: Context,
    systems: Systems,
    active: Generation,
    plain: System,
    wanted: Served,
    probes: Probes,
    record: NudgeRecord | None,
    moved: Moved,
) -> Generation:
    """Write a new generation of the same space and index it: readers never see a table half written."""
    generations = GenerationRepository(context.conn)
    space = SpaceRepository(context.conn).get(active.space_id)
    made = make_generation(context, space, active.topic_run_id, record, lexicon_record_of(active))
    made = generations.set_fields(made.generation_id, metrics=active.metrics)
    generations.create_tables(made)
    ContrastRepository(context.conn).write(made, moved.contrast)
    systems.write_lexicon(made, plain, wanted.vectors)
    ServedRepository(context.conn).write_served(made, wanted)
    indexed = index_served(context, made)
    if indexed.fault:
        raise StepError(f"{indexed.fault}; generation {active.generation_id} stays live")
    NudgeState(context.conn, made).write_probes(probes)
    generations.set_state(made.generation_id, "ready", indexed.note or None)
    return made


def _count_displacement(
    context: Context, generation_id: int, before: Float32Array, after: Float32Array, rows: int
) -> None:
    """Add the angle that some of a generation's rows have moved to its total, a mean over all its rows."""
    generations = GenerationRepository(context.conn)
    dot = np.einsum("ij,ij->i", before, after, dtype=np.float64)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    moved = float(np.arccos(np.clip(dot / lengths, -1, 1)).sum())
    metrics = generations.get(generation_id).metrics
    total = metrics.get(DISPLACEMENT, 0.0) + moved / max(rows, 1)
    generations.set_fields(generation_id, metrics={**metrics, DISPLACEMENT: total})


def _questions(scores: Scores) -> int:
    return sum(map(len, scores.documents.values()))


def _judge(context: Context, old: Scores, new: Scores) -> str:
    """Record both, and name the sets whose quality fell beyond its interval; empty where none did."""
    rows = evaluation_rows(old, None, context.settings) + evaluation_rows(new, old, context.settings)
    RunRepository(context.conn).record_evaluations(context.run_id, rows)
    return compare_for_drop(new, old, context.settings)


NUDGE_LIVE = Step("nudge_live", nudge_live, None)
