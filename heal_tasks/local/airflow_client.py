"""The few calls of Airflow's REST API that the demo needs, over the standard library."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from heal_tasks.core.errors import HealError, RetryableError

RETRY_EVERY_S = 1.0
ATTEMPTS = 3
ACTIVE = ("queued", "running")
FINISHED = ("success", "failed")


class AirflowError(HealError):
    """Airflow does not run here, or it refused; the message says what to do."""


class AirflowUnreachableError(AirflowError, RetryableError):
    """Airflow does not answer; it may be starting."""


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """One task instance of a run.

    Args:
        task_id: with its group, for example ``realign.ask``.
        map_index: number of the mapped instance; -1 where the task is not mapped.
        state: Airflow's state; None before it is scheduled.
        started_at: UTC.
        ended_at: UTC.
        try_number: 1 for the first attempt.
    """

    task_id: str
    map_index: int
    state: str | None
    started_at: datetime | None
    ended_at: datetime | None
    try_number: int


class AirflowClient:
    """A logged-in user of Airflow's REST API.

    Args:
        base_url: for example ``http://127.0.0.1:8080``.
        user: name of the user.
        password: its password.
        timeout_s: longest wait for one answer, in seconds.
    """

    def __init__(self, base_url: str, user: str, password: str, timeout_s: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._user, self._password, self._timeout_s = user, password, timeout_s
        self._token: str | None = None

    def health(self) -> dict[str, dict[str, Any]]:
        """Status and last heartbeat by component; needs no login.

        Raises:
            AirflowError: it does not answer.
        """
        answer = self._send("GET", "/api/v2/monitor/health")
        return {name: facts for name, facts in answer.items() if isinstance(facts, dict)}

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run.

        Raises:
            AirflowError: Airflow does not answer, or knows no such DAG.
        """
        self._call("PATCH", f"/api/v2/dags/{quote(dag_id)}?update_mask=is_paused", {"is_paused": False})

    def wait_for_dag(self, dag_id: str, timeout_s: float, say: Callable[[str], None]) -> None:
        """Wait until the DAG processor has stored a DAG.

        Args:
            dag_id: which.
            timeout_s: longest wait, in seconds.
            say: told once that this waits.

        Raises:
            AirflowError: it did not appear in time; the message lists the import errors.
        """
        deadline, said = time.monotonic() + timeout_s, False
        while True:
            if self._call("GET", f"/api/v2/dags/{quote(dag_id)}", quiet=(404,)):
                return
            errors = self._call("GET", "/api/v2/importErrors")["import_errors"]
            details = "\n".join(f"{error['filename']}:\n{error['stack_trace']}" for error in errors)
            if time.monotonic() > deadline:
                found = f"these DAG files cannot be imported:\n{details}" if details else "no DAG file defines it"
                raise AirflowError(f"DAG {dag_id!r} did not appear within {timeout_s:.0f} s; {found}")
            if not said:
                say(f"waiting until Airflow has read the DAG {dag_id}")
                said = True
            time.sleep(RETRY_EVERY_S)

    def wait_for_schedule(self, dag_id: str, timeout_s: float) -> None:
        """Wait until the scheduler has created the run that is due, if one is.

        With ``catchup=False`` a DAG that is unpaused still gets one run at once, for the last interval.

        Args:
            dag_id: an unpaused DAG.
            timeout_s: longest wait, in seconds; the scheduler may also hold back at ``max_active_runs``.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            due = _time(self._call("GET", f"/api/v2/dags/{quote(dag_id)}")["next_dagrun_run_after"])
            if due is None or due > datetime.now(UTC) or self.active_runs(dag_id):
                return
            time.sleep(RETRY_EVERY_S)

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run.

        Args:
            dag_id: which DAG.
            conf: values of its params.

        Returns:
            The run id.

        Raises:
            AirflowError: the DAG is unknown or refuses ``conf``; the message is Airflow's.
        """
        # Named here, so that asking again after an answer that was lost does not start a second run.
        run_id = f"manual__{datetime.now(UTC).isoformat()}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self._call("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", body, quiet=(409,))
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        """State of a run: queued, running, success or failed.

        Raises:
            AirflowError: there is no such run.
        """
        return str(self._call("GET", f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}")["state"])

    def active_runs(self, dag_id: str = "~") -> list[str]:
        """Ids of the runs that are queued or running, oldest first; of every DAG by default."""
        query = urlencode([("limit", 50), ("order_by", "run_after"), *(("state", state) for state in ACTIVE)])
        runs = self._call("GET", f"/api/v2/dags/{quote(dag_id, safe='~')}/dagRuns?{query}")["dag_runs"]
        return [str(run["dag_run_id"]) for run in runs]

    def last_run(self, dag_id: str) -> str | None:
        """Id of the newest run of a DAG, or None."""
        runs = self._call("GET", f"/api/v2/dags/{quote(dag_id)}/dagRuns?limit=1&order_by=-run_after")["dag_runs"]
        return str(runs[0]["dag_run_id"]) if runs else None

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Every task instance of a run, mapped ones one by one."""
        found: list[dict[str, Any]] = []
        while True:
            query = urlencode({"limit": 100, "offset": len(found)})
            path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances?{query}"
            page = self._call("GET", path)
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                break
        return [
            TaskInstance(
                item["task_id"], item["map_index"], item["state"], _time(item["start_date"]), _time(item["end_date"]),
                item["try_number"],
            )
            for item in found
        ]  # fmt: skip

    def downstream(self, dag_id: str) -> dict[str, list[str]]:
        """Task ids of a DAG, each with those that come directly after it."""
        tasks = self._call("GET", f"/api/v2/dags/{quote(dag_id)}/tasks")["tasks"]
        return {task["task_id"]: list(task["downstream_task_ids"]) for task in tasks}

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool unless there is one of that name; one that somebody resized is left as it is."""
        if not self._call("GET", f"/api/v2/pools/{quote(name)}", quiet=(404,)):
            body = {"name": name, "slots": slots, "description": description}
            self._call("POST", "/api/v2/pools", body, quiet=(409,))

    def _call(self, method: str, path: str, body: Any = None, quiet: Sequence[int] = ()) -> dict[str, Any]:
        """One call, safe to be made again; the statuses in ``quiet`` are an empty answer."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self._token is None:
                    self._login()
                return self._send(method, path, body, self._token, quiet)
            except (_TokenExpiredError, AirflowUnreachableError) as error:
                # A busy machine can keep Airflow from answering in time.
                self._token = None if isinstance(error, _TokenExpiredError) else self._token
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _login(self) -> None:
        login = {"username": self._user, "password": self._password}
        self._token = str(self._send("POST", "/auth/token", login)["access_token"])

    def _send(
        self, method: str, path: str, body: Any = None, token: str | None = None, quiet: Sequence[int] = ()
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        request = Request(f"{self.base_url}{path}", data=data, headers=headers, method=method)  # noqa: S310 our own URL
        try:
            with urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                value = json.loads(answer.read() or b"{}")
        except HTTPError as error:
            if error.code in quiet:
                return {}
            text = error.read().decode(errors="replace")
            if error.code == 401 and token:
                raise _TokenExpiredError(f"Airflow at {self.base_url} refused the login of {self._user!r}") from None
            raise AirflowError(_refusal(self.base_url, method, path, error.code, text)) from None
        except (URLError, OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise AirflowUnreachableError(
                f"Airflow at {self.base_url} does not answer ({reason}); `make status` shows what runs, `make up` "
                "starts what does not"
            ) from None
        return value if isinstance(value, dict) else {}


class _TokenExpiredError(AirflowError):
    """The token is no longer good; a new login may help."""


def _refusal(base_url: str, method: str, path: str, code: int, text: str) -> str:
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = text[:500]
    cure = {
        401: "the password is in secrets.json in the state folder; after it was changed, `make down up` tells Airflow",
        404: "look for its name in the UI; a DAG that is missing there has an import error",
        400: "correct the parameters",
        422: "correct the parameters",
    }.get(code, "the log of the API server is in logs in the state folder")
    return f"Airflow at {base_url} refused {method} {path.partition('?')[0]} with {code}: {detail}; {cure}"


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
