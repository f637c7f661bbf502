"""The REST client against a small server that answers as Airflow does."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from heal_tasks.core.errors import AirflowError, AirflowUnreachableError, RetryableError
from heal_tasks.local.airflow_client import AirflowClient
from heal_tasks.local.stack import Status, paused

Answer = tuple[int, Any]
PASSWORD = "right"


class FakeAirflow:
    """Answers by method and path; a callable is asked anew each time."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.seen: list[tuple[str, Any]] = []
        self.logins = 0
        self.valid_token = ""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
                status, value = fake.respond(f"{self.command} {self.path}", body, self.headers.get("Authorization"))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(value if isinstance(value, bytes) else json.dumps(value).encode())

            do_GET = do_POST = do_PATCH = answer  # noqa: N815 names that the base class looks for

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def respond(self, call: str, body: Any, authorization: str | None) -> Answer:
        if call == "POST /auth/token":
            self.logins += 1
            if body["password"] != PASSWORD:
                return 401, {"detail": "Invalid credentials"}
            self.valid_token = f"token{self.logins}"
            return 201, {"access_token": self.valid_token}
        self.seen.append((call, body))
        if "monitor/health" not in call and authorization != f"Bearer {self.valid_token}":
            return 401, {"detail": "Invalid or expired token"}
        found = self.answers.get(call, (404, {"detail": "not found"}))
        return found() if callable(found) else found


@pytest.fixture
def airflow() -> Iterator[FakeAirflow]:
    fake = FakeAirflow()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def client(airflow: FakeAirflow) -> AirflowClient:
    return AirflowClient(airflow.url, "admin", PASSWORD, timeout_s=5)


def test_health_needs_no_login(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.answers["GET /api/v2/monitor/health"] = 200, {"scheduler": {"status": "healthy"}, "dag_processor": None}
    assert client.health() == {"scheduler": {"status": "healthy"}}
    assert airflow.logins == 0


def test_trigger_sends_conf_and_no_logical_date(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.answers["POST /api/v2/dags/d/dagRuns"] = 200, {}
    run_id = client.trigger("d", {"a": 1})
    assert run_id.startswith("manual__")
    body = {"dag_run_id": run_id, "logical_date": None, "conf": {"a": 1}}
    assert airflow.seen == [("POST /api/v2/dags/d/dagRuns", body)]


def test_a_lost_answer_does_not_start_a_second_run(airflow: FakeAirflow, client: AirflowClient) -> None:
    answers = iter([(200, b"cut off"), (409, {"detail": "exists"})])
    airflow.answers["POST /api/v2/dags/d/dagRuns"] = lambda: next(answers)
    run_id = client.trigger("d", {})
    assert {body["dag_run_id"] for _, body in airflow.seen} == {run_id}
    assert len(airflow.seen) == 2


def test_a_token_that_is_never_accepted(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.respond = lambda call, *_: (201, {"access_token": "x"}) if "token" in call else (401, {})  # type: ignore[method-assign]
    with pytest.raises(AirflowError, match=r"refused GET .* with 401: .*the password is in secrets\.json"):
        client.run_state("d", "r")


def test_an_expired_token_is_renewed_once(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.answers["GET /api/v2/dags/d/dagRuns/a%2Bb%3A1"] = 200, {"state": "running"}
    assert client.run_state("d", "a+b:1") == "running"
    airflow.valid_token = "another"
    assert client.run_state("d", "a+b:1") == "running"
    assert airflow.logins == 2


def test_a_wrong_password_says_where_the_right_one_is(airflow: FakeAirflow) -> None:
    with pytest.raises(AirflowError, match=r"refused POST /auth/token with 401: Invalid credentials; .*secrets\.json"):
        AirflowClient(airflow.url, "admin", "wrong").run_state("d", "r")


def test_airflows_own_message_is_passed_on(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.answers["POST /api/v2/dags/d/dagRuns"] = 400, {"detail": "'x' is not one of ['auto', 'nudge']"}
    with pytest.raises(AirflowError, match=r"with 400: 'x' is not one of .*correct the parameters"):
        client.trigger("d", {"force_route": "x"})


@pytest.mark.parametrize("reply", [b"<html>proxy</html>", b""])
def test_a_refusal_that_is_not_json(airflow: FakeAirflow, client: AirflowClient, reply: bytes) -> None:
    airflow.answers["GET /api/v2/dags/d/dagRuns/r"] = 503, reply
    with pytest.raises(AirflowError, match=r"with 503: .*API server's log"):
        client.run_state("d", "r")


def test_no_server_is_a_retryable_error(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.server.shutdown()
    airflow.server.server_close()
    with pytest.raises(AirflowUnreachableError, match=r"does not answer .*`make up`") as caught:
        client.health()
    assert isinstance(caught.value, RetryableError)


def test_an_answer_that_is_not_json_counts_as_no_answer(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.answers["GET /api/v2/monitor/health"] = 200, b"starting"
    with pytest.raises(AirflowUnreachableError, match="does not answer"):
        client.health()


def test_task_instances_of_every_page(airflow: FakeAirflow, client: AirflowClient) -> None:
    def item(index: int) -> dict[str, Any]:
        start = "2026-11-21T10:00:00Z" if index == 0 else None
        return {
            "task_id": "t",
            "map_index": index,
            "state": None,
            "start_date": start,
            "end_date": None,
            "try_number": 1,
        }

    path = "GET /api/v2/dags/d/dagRuns/r/taskInstances?limit=100&offset="
    airflow.answers[f"{path}0"] = 200, {"task_instances": [item(i) for i in range(100)], "total_entries": 130}
    airflow.answers[f"{path}100"] = 200, {"task_instances": [item(i) for i in range(100, 130)], "total_entries": 130}
    found = client.task_instances("d", "r")
    assert [instance.map_index for instance in found] == list(range(130))
    assert found[0].start_date == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert found[1].start_date is None


def test_a_dag_that_never_appears_shows_its_import_error(airflow: FakeAirflow, client: AirflowClient) -> None:
    errors = [{"filename": "heal_realign.py", "stack_trace": "SyntaxError: x"}]
    airflow.answers["GET /api/v2/importErrors"] = 200, {"import_errors": errors}
    with pytest.raises(
        AirflowError, match=r"did not appear within 0 s; .*cannot be imported:\nheal_realign.py:\nSyntax"
    ):
        client.wait_for_dag("d", 0)
    airflow.answers["GET /api/v2/dags/d"] = 200, {"dag_id": "d"}
    client.wait_for_dag("d", 0)


def test_waits_for_the_run_that_is_due_after_unpausing(
    airflow: FakeAirflow, client: AirflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heal_tasks.local.airflow_client.RETRY_EVERY_S", 0.01)
    now = datetime.now(UTC)
    due = iter([now - timedelta(hours=1), now - timedelta(hours=1), now + timedelta(hours=1)])
    airflow.answers["GET /api/v2/dags/d"] = lambda: (200, {"next_dagrun_run_after": next(due).isoformat()})
    query = "limit=50&order_by=run_after&state=queued&state=running"
    airflow.answers[f"GET /api/v2/dags/d/dagRuns?{query}"] = 200, {"dag_runs": []}
    client.wait_for_schedule("d", timeout_s=30)
    assert next(due, None) is None


def test_a_pool_that_somebody_resized_is_left_alone(airflow: FakeAirflow, client: AirflowClient) -> None:
    for status in (201, 409):
        airflow.answers["POST /api/v2/pools"] = status, {}
        client.ensure_pool("gpu", 1, "one")
    created = ("POST /api/v2/pools", {"name": "gpu", "slots": 1, "description": "one"})
    assert airflow.seen == [created, created]


def test_paused_dags_are_said(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.answers["GET /api/v2/dags/heal_realign"] = 200, {"is_paused": True}
    airflow.answers["GET /api/v2/dags/heal_maintain"] = 200, {"is_paused": False}
    (sentence,) = paused(client)
    assert sentence.startswith("heal_realign is paused: its runs do not start, neither at night nor when they are")
    assert sentence.endswith(f"Unpause it by its switch at {client.base_url}")
    assert Status(True, {}, client.base_url, [sentence]).lines()[-1] == sentence
    airflow.answers["GET /api/v2/dags/heal_realign"] = 404, {}
    assert paused(client) == []
