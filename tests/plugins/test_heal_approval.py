"""The approval before a publication: asked only where something live would be replaced; no answer means no."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from heal_tasks.store.db import Connection

pytestmark = pytest.mark.usefixtures("plugins")

REFS = {"generation_id": 7, "live_id": 4, "keep_rows": 0, "best_system": "m", "verdict": "m is promoted over live."}
MANIFEST = {"run_id": "r", "refs": REFS}


def operator(manifest: Any) -> Any:
    from heal_approval import ApproveOperator

    return ApproveOperator(task_id="approve", manifest=manifest)


@pytest.mark.parametrize("kept", [{"generation_id": 0}, {"live_id": 0}, {"keep_rows": 1}])
def test_nothing_is_asked_where_the_live_vectors_stay(
    auto: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, kept: dict[str, int]
) -> None:
    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    manifest = MANIFEST | {"refs": REFS | kept}
    assert operator(manifest).execute({"dag": SimpleNamespace(dag_id="heal_realign")}) == manifest


def test_a_person_is_asked_and_alerted_and_no_worker_waits(
    auto: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import heal_alerts
    from airflow.sdk.exceptions import TaskAwaitingInput

    asked, sent = dict[str, Any](), list[Any]()
    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **named: asked.update(named)
    )
    monkeypatch.setattr(heal_alerts, "send", sent.append)
    task = operator(MANIFEST)
    context = {
        "task": task, "task_instance": SimpleNamespace(id="t"), "run_id": "r+1",
        "dag": SimpleNamespace(dag_id="d", get_template_env=lambda **_: None),
    }  # fmt: skip
    with pytest.raises(TaskAwaitingInput) as waiting:
        task.execute(context)
    assert waiting.value.timeout == timedelta(hours=20)
    question = "Publish generation 7 in place of generation 4? m is promoted over live."
    assert "[choose](dags/d/runs/r%2B1/tasks/realign.choose)" in asked["body"]
    assert (asked["subject"], asked["options"], asked["defaults"]) == (question, ["Approve", "Reject"], ["Reject"])
    assert [(alert.event, alert.message) for alert in sent] == [("approval", question)]


@pytest.mark.parametrize(
    ("option", "user", "rejected"),
    [
        ("Approve", {"id": "1", "name": "ann"}, None),
        ("Reject", {"id": "1", "name": "ann"}, "ann rejected it"),
        ("Reject", None, "nobody approved it within 20 hours"),
    ],
)
def test_an_answer_goes_on_to_publish(option: str, user: Any, rejected: str | None) -> None:
    event = {
        "chosen_options": [option], "params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": user,
    }  # fmt: skip
    answered = operator(MANIFEST).execute_complete({}, event)
    assert answered["refs"].get("rejected") == rejected
    assert answered == MANIFEST or rejected
