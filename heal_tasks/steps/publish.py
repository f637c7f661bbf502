"""Step publish: the chosen generation written, indexed and measured; then one transaction switches to it."""

from heal_tasks.core.errors import StepError
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.probes import restart_drift
from heal_tasks.steps.vectors.publishing import publish_generation
from heal_tasks.store.generations.generations import GenerationRepository


def publish(context: Context) -> Outcome:
    """Write, index and measure the generation of ref ``generation_id``, then switch to it; 0 keeps the live one.

    Where a person has rejected it, ref ``rejected`` says who. Ref ``went_live`` is the new live generation, or 0.
    """
    generations = GenerationRepository(context.conn)
    chosen, verdict = context.manifest.number("generation_id"), context.manifest.text("verdict")
    made = generations.get(chosen) if chosen else None
    if made and (made.run_id != context.run_id or made.state not in ("building", "ready", "active", "failed")):
        raise StepError(
            f"generation {chosen} is of run {made.run_id!r} and {made.state}; run {context.run_id!r} publishes what "
            "its own step choose has made; `python -m heal_tasks activate` makes an older generation live"
        )
    counts, notes = dict[str, int | float](), list[str]()
    served = made is not None and made.state == "active"  # an earlier attempt was killed after the switch
    live_id = context.manifest.number("live_id") if made else 0
    if made and not served and (held := _rejected(context) or _switched(generations, chosen, live_id)):
        generations.set_state(chosen, "failed", note=held)
        generations.drop_tables(chosen)
        verdict, chosen = held, 0
    elif made and not served:
        rows, indexed, bridges = publish_generation(context, made, keep_rows=bool(context.manifest.number("keep_rows")))
        built, measured = indexed.built, indexed.generation
        counts = {
            "rows": rows, "index_seconds": round(built.seconds, 2), "index_bytes": built.size_bytes,
            "ef_search": measured.ef_search, "oversampling": measured.oversampling,
        }  # fmt: skip
        if measured.recall is not None:
            counts["recall"] = round(measured.recall, 4)
        recall = "recall not measured" if measured.recall is None else f"recall@10 {measured.recall:.3f}"
        note = f"{built.rows} rows indexed ({built.kind}) in {built.seconds:.1f} s, {recall} at {measured.effort}"
        if built.kind == "none":
            note = f"{built.rows} rows, too few for an index: a search compares all of them"
        elif built.spilled:
            note += "; the graph outgrew maintenance_work_mem, raise HEAL_INDEX_MEMORY_MB"
        notes += [note, *filter(None, [indexed.note, bridges])]
        if indexed.fault:
            verdict, chosen = f"Not published: {indexed.fault}.", 0
    generations.retire_old(context.settings.drain_hours)
    active = generations.active()
    if active is None:
        raise StepError(f"no generation is active: {verdict}")
    if not chosen:
        # Otherwise the drift of the live generation would call for the same realignment every night.
        restart_drift(context.conn, active)
    refs: dict[str, int | str] = {"generation_id": active.generation_id, "went_live": chosen, "verdict": verdict}
    return Outcome(refs=refs, counts=counts, note="; ".join([verdict.split("\n")[0], *notes]))


def _rejected(context: Context) -> str:
    """Say who has rejected the generation; empty if nobody has."""
    rejected, live_id = context.manifest.refs.get("rejected"), context.manifest.number("live_id")
    return f"Not published: {rejected}; generation {live_id} stays live." if rejected else ""


def _switched(generations: GenerationRepository, chosen: int, live_id: int) -> str:
    """Say what has gone live since the generation was chosen: it was not compared with that; empty if nothing has."""
    active = generations.active()
    now = active.generation_id if active else 0
    if now in (live_id, chosen):
        return ""
    compared = f"generation {live_id}" if live_id else "no live generation"
    return (
        f"Not published: generation {now} went live after generation {chosen} had been compared with {compared}; the "
        "next realignment compares again."
    )


PUBLISH = Step("publish", publish, None)
