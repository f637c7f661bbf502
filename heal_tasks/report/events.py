"""The events of a run that a person should hear of, and the proposal that a person approves, as text."""

from datetime import UTC, datetime

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.metrics import NDCG, TOPIC_AGREEMENT
from heal_tasks.core.types import JsonObject
from heal_tasks.store.db import Connection, scalar
from heal_tasks.store.runs.runs import NOT_FINISHED, EvaluationRow, RunRepository, StepRow

NO_ROOM = "over_spend_limit"
"""The count, in every step that calls a language model, of chunks that the spend limit had no room for."""


def run_events(conn: Connection, run_id: str) -> dict[str, str]:
    """The things that a run left undone on purpose, as text: ``refused`` promotion, ``spend_limit`` reached."""
    steps = [row for row in RunRepository(conn).steps_of(run_id) if row.result and row.finished_at]
    refused, unpaid = _refusal(steps), sum(int(_counts(row).get(NO_ROOM, 0)) for row in steps)
    events = {"refused": refused} if refused else {}
    if unpaid:
        events["spend_limit"] = f"{unpaid} calls of the language model are left for the next run."
    return events


def what_failed(conn: Connection, run_id: str) -> str:
    """The verdict of a run that failed, or else the steps that did not finish, each with its last message."""
    run = RunRepository(conn).get_run(run_id)
    if run and run.verdict:
        return run.verdict.partition("\n")[0]
    rows = [row for row in RunRepository(conn).steps_of(run_id) if row.finished_at is None]
    return "; ".join(dict.fromkeys(f"{row.step}: {row.message or 'ended without a message'}" for row in rows))


def staleness(conn: Connection, hours: float) -> str:
    """Say that no run has succeeded for so many hours; empty if one has, or there never was any run."""
    last: datetime | None = scalar(
        conn,
        "SELECT coalesce(max(finished_at) FILTER (WHERE NOT starts_with(verdict, %s)), min(started_at)) FROM heal.run",
        (NOT_FINISHED,),
    )
    if last is None or RunRepository(conn).age_s(last) < hours * 3600:
        return ""
    return f"No run has ended well since {last.astimezone(UTC):%Y-%m-%d %H:%M} UTC (HEAL_STALE_HOURS={hours:g})."


def proposal(conn: Connection, manifest: Manifest) -> tuple[str, str] | None:
    """Subject and Markdown body of the question whether to publish; None if live vectors stay, or nothing is live."""
    chosen, live = manifest.number("generation_id"), manifest.number("live_id")
    if not chosen or not live or manifest.number("keep_rows"):
        return None
    (verdict, *reasons), system = manifest.text("verdict").split("\n"), manifest.text("best_system")
    table = [
        f"| {system} | measure | value | difference (95 %) | number |",
        "|---|---|---|---|---|",
        *(
            f"| {row.question_set} | {row.metric} | {row.value:.3f} | {_difference(row)} | {row.questions} |"
            for row in RunRepository(conn).evaluations(manifest.run_id)
            if row.system == system and row.metric in (NDCG, TOPIC_AGREEMENT)
        ),
    ]
    subject = f"Publish generation {chosen} in place of generation {live}? {verdict}"
    return subject, "\n\n".join([*reasons, "\n".join(table)])


def _difference(row: EvaluationRow) -> str:
    if row.difference is None:
        return ""
    interval = f" ({row.diff_low:+.3f} to {row.diff_high:+.3f})" if row.diff_low is not None else ""
    return f"{row.difference:+.3f}{interval} to {row.rival}"


def _refusal(steps: list[StepRow]) -> str:
    """The verdict of a run that had a candidate and did not publish it; empty for any other run."""
    refs = {row.step: row.result["refs"] for row in steps if row.result}
    choice, verdict = refs.get("choose", {}), str(refs.get("publish", {}).get("verdict", ""))
    if verdict.startswith("Not published"):
        return verdict
    return verdict if choice.get("best_id") and choice["best_id"] != choice["generation_id"] else ""


def _counts(row: StepRow) -> JsonObject:
    assert row.result is not None
    counts: JsonObject = row.result["counts"]
    return counts
