"""The calls of Airflow's REST API that the command line needs."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import BaseModel
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from heal_tasks.core.errors import AirflowError, AirflowUnreachableError

if TYPE_CHECKING:
    import httpx2

RETRY_EVERY_S = 1.0
ATTEMPTS = 3
FINISHED = ("success", "failed")

_CURES = {
    400: "correct the parameters",
    401: "the password is in secrets.json in the state folder; after it was changed, `make down up` tells Airflow",
    404: "look for its name in the UI; a DAG that is missing there has an import error",
    422: "correct the parameters",
}


class TaskInstance(BaseModel, frozen=True):
    """One task instance of a run, by Airflow's names; times in UTC."""

    task_id: str  # with its group: realign.ask
    map_index: int  # -1 where the task is not mapped
    state: str | None  # None before it is scheduled
    start_date: datetime | None
    end_date: datetime | None
    try_number: int  # 1 for the first attempt


class _UnauthorizedError(AirflowError):
    """The token, or the password, is not accepted."""


TRANSIENT = (AirflowUnreachableError, _UnauthorizedError)


class AirflowClient:
    """A user of Airflow's REST API, logged in with the first call.

    A call that gets no answer is repeated, then it raises AirflowUnreachableError; a refused one raises AirflowError.
    """

    def __init__(self, base_url: str, user: str, password: str, timeout_s: float = 30.0) -> None:
        import httpx2  # not in the image of Airflow's components

        self.base_url = base_url
        self._user = {"username": user, "password": password}
        # Our own loopback address: no proxy of the environment is meant.
        self._client = httpx2.Client(base_url=f"{base_url}/api/v2", timeout=timeout_s, trust_env=False)

    def health(self) -> dict[str, dict[str, Any]]:
        """Status and last heartbeat by component; needs no login."""
        return {name: facts for name, facts in self._send("GET", "/monitor/health").items() if isinstance(facts, dict)}

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run."""
        self._call("PATCH", _dag(dag_id), params={"update_mask": "is_paused"}, json={"is_paused": False})

    def is_paused(self, dag_id: str) -> bool:
        """True if no run of a DAG starts; False, too, where there is no such DAG."""
        return bool(self._call("GET", _dag(dag_id), quiet=(404,)).get("is_paused"))

    def wait_for_dag(self, dag_id: str, timeout_s: float) -> None:
        """Wait until the DAG processor has stored a DAG; the error after ``timeout_s`` lists the import errors."""
        deadline = time.monotonic() + timeout_s
        while not self._call("GET", _dag(dag_id), quiet=(404,)):
            if time.monotonic() >= deadline:
                errors = self._call("GET", "/importErrors")["import_errors"]
                details = "\n".join(f"{error['filename']}:\n{error['stack_trace']}" for error in errors)
                found = f"these DAG files cannot be imported:\n{details}" if details else "no DAG file defines it"
                raise AirflowError(f"DAG {dag_id!r} did not appear within {timeout_s:.0f} s; {found}")
            time.sleep(RETRY_EVERY_S)

    def wait_for_schedule(self, dag_id: str, timeout_s: float) -> None:
        """Wait until the scheduler has created the run that is due, if one is.

        With ``catchup=False`` a DAG that is unpaused still gets one run at once, for the last interval. The wait is
        limited, because the scheduler may also hold back at ``max_active_runs``.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            due = self._call("GET", _dag(dag_id))["next_dagrun_run_after"]
            if not due or datetime.fromisoformat(due) > datetime.now(UTC) or self.active_runs(dag_id):
                return
            time.sleep(RETRY_EVERY_S)

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run with values of its params, and return its id."""
        # Named here, so that asking again after a lost answer does not start a second run.
        run_id = f"manual__{datetime.now(UTC).isoformat()}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self._call("POST", f"{_dag(dag_id)}/dagRuns", json=body, quiet=(409,))
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        """State of a run: queued, running, success or failed."""
        return str(self._call("GET", f"{_dag(dag_id)}/dagRuns/{quote(run_id)}")["state"])

    def active_runs(self, dag_id: str = "~") -> list[str]:
        """Ids of the runs that are queued or running, oldest first; of every DAG by default."""
        return self._runs(dag_id, limit=50, order_by="run_after", state=("queued", "running"))

    def last_run(self, dag_id: str) -> str | None:
        """Id of the newest run of a DAG, or None."""
        return next(iter(self._runs(dag_id, limit=1, order_by="-run_after")), None)

    def _runs(self, dag_id: str, **params: Any) -> list[str]:
        return [run["dag_run_id"] for run in self._call("GET", f"{_dag(dag_id)}/dagRuns", params=params)["dag_runs"]]

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Every task instance of a run, mapped ones one by one."""
        path, found = f"{_dag(dag_id)}/dagRuns/{quote(run_id)}/taskInstances", list[TaskInstance]()
        while True:
            page = self._call("GET", path, params={"limit": 100, "offset": len(found)})
            found += [TaskInstance.model_validate(item) for item in page["task_instances"]]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def downstream(self, dag_id: str) -> dict[str, list[str]]:
        """Task ids of a DAG, each with those that come directly after it."""
        tasks = self._call("GET", f"{_dag(dag_id)}/tasks")["tasks"]
        return {task["task_id"]: list(task["downstream_task_ids"]) for task in tasks}

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool unless there is one of that name; one that somebody resized is left as it is."""
        body = {"name": name, "slots": slots, "description": description}
        self._call("POST", "/pools", json=body, quiet=(409,))

    # A busy machine can keep Airflow from answering in time, and a token expires.
    @retry(retry=retry_if_exception_type(TRANSIENT), stop=stop_after_attempt(ATTEMPTS), reraise=True)
    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        headers = self._client.headers
        if "Authorization" not in headers:
            answer = self._send("POST", f"{self.base_url}/auth/token", json=self._user)
            headers["Authorization"] = f"Bearer {answer['access_token']}"
        try:
            return self._send(method, path, **options)
        except _UnauthorizedError:
            del headers["Authorization"]
            raise

    def _send(self, method: str, path: str, *, quiet: Sequence[int] = (), **options: Any) -> dict[str, Any]:
        """One request; the statuses in ``quiet`` are an empty answer."""
        import httpx2

        try:
            answer = self._client.request(method, path, **options)
            if answer.status_code in quiet:
                return {}
            if not answer.is_success:
                raise self._refusal(answer)
            value = answer.json() if answer.content else {}
        except (httpx2.HTTPError, ValueError) as error:
            raise AirflowUnreachableError(
                f"Airflow at {self.base_url} does not answer ({error}); `python -m heal_tasks status` shows which "
                "parts run, `make up` starts the others"
            ) from None
        return value if isinstance(value, dict) else {}

    def _refusal(self, answer: "httpx2.Response") -> AirflowError:
        try:
            detail = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = answer.text[:500]
        status = answer.status_code
        cure = _CURES.get(status, "see the API server's log in the folder logs of the state folder")
        return (_UnauthorizedError if status == 401 else AirflowError)(
            f"Airflow at {self.base_url} refused {answer.request.method} {answer.request.url.path} with {status}: "
            f"{detail}; {cure}"
        )


def _dag(dag_id: str) -> str:
    return f"/dags/{quote(dag_id, safe='~')}"
