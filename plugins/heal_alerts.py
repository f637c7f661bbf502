"""Alerts, sent to the Airflow connections of ``HEAL_ALERTS``: by e-mail, to a webhook or to Slack.

An alert that cannot be sent is logged and fails nothing.
"""

import json
import logging
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from airflow.sdk import BaseNotifier, Connection, Context
from airflow.sdk.configuration import conf
from asgiref.sync import sync_to_async
from heal_connections import connect_store

if TYPE_CHECKING:
    from heal_tasks.store.db import Connection as StoreConnection

TIMEOUT_S = 10
SLACK = "https://hooks.slack.com/services"
TITLES = {
    "failed": "run failed",
    "refused": "promotion refused",
    "spend_limit": "spend limit reached",
    "stale": "no successful run",
    "late": "deadline missed",
    "approval": "approval wanted",
}
"""Every event that is alerted about, as a message names it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alert:
    """One event of a run, for a person."""

    event: str  # a key of TITLES
    dag_id: str
    run_id: str
    message: str

    @property
    def title(self) -> str:
        """The subject of an e-mail."""
        return f"{self.dag_id}: {TITLES[self.event]}"

    @property
    def url(self) -> str:
        """The run in Airflow's UI."""
        base = conf.get("api", "base_url", fallback="").rstrip("/")
        return f"{base}/dags/{self.dag_id}/runs/{quote(self.run_id, safe='')}"


def send(alert: Alert) -> None:
    """Send an alert to every connection of ``HEAL_ALERTS``; a fault of one is logged and holds up no other."""
    from heal_tasks.core.corpora import corpus_of
    from heal_tasks.core.redaction import redacted
    from heal_tasks.core.settings import load_settings

    alert = replace(alert, message=redacted(alert.message))
    for name in load_settings(corpus=corpus_of(alert.dag_id)).alerts:
        with _logged(f"alert {alert.title!r} was not sent to connection {name!r}"):
            _send_to(Connection.get(name), alert)


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log a fault in the block instead of raising it."""
    from heal_tasks.core.redaction import redacted

    try:
        yield
    except Exception as error:
        log.warning("%s (%s)", what, redacted(f"{type(error).__name__}: {error}"))


def _send_to(connection: Connection, alert: Alert) -> None:
    from heal_tasks.core.redaction import remember

    if connection.password:
        remember(connection.password)
    text = f"{alert.title}\n{alert.message}\n{alert.url}"
    if connection.conn_type == "smtp":
        from airflow.providers.smtp.hooks.smtp import SmtpHook

        with SmtpHook(smtp_conn_id=connection.conn_id) as hook:
            to = connection.extra_dejson.get("to") or hook.from_email
            hook.send_email_smtp(to=to, subject=alert.title, html_content=escape(text).replace("\n", "<br>\n"))
    elif connection.conn_type == "slackwebhook":
        _post(f"{connection.host or SLACK}/{connection.password}", {"text": escape(text, quote=False)}, {})
    elif connection.conn_type in ("http", "https"):
        headers = {name: str(value) for name, value in connection.extra_dejson.items()}
        if connection.login:
            basic = b64encode(f"{connection.login}:{connection.password or ''}".encode()).decode()
            headers["Authorization"] = f"Basic {basic}"
        url = _url_of(connection)
        _post(url, {"text": text} | ({} if url.startswith(SLACK) else asdict(alert) | {"url": alert.url}), headers)
    else:
        raise ValueError(f"its type is {connection.conn_type!r}; make it smtp, http or slackwebhook")


def _url_of(connection: Connection) -> str:
    """The URL of a connection, whose host may be a whole one, as for Airflow's HttpHook."""
    host = connection.host or ""
    if "://" in host:
        scheme, _, host = host.partition("://")
    else:
        scheme = connection.schema or connection.conn_type
    name, slash, path = host.partition("/")
    return f"{scheme}://{name}{f':{connection.port}' if connection.port else ''}{slash}{path}"


def _post(url: str, body: dict[str, str], headers: dict[str, str]) -> None:
    # Not httpx, which logs each URL: that of a webhook is its password.
    if not url.startswith(("https://", "http://")):
        raise ValueError("its host is no address of http or https")
    data = json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"} | headers), timeout=TIMEOUT_S):  # noqa: S310
        pass


class AlertNotifier(BaseNotifier):
    """Sends the alert ``failed`` or ``approval`` about the run of a callback's context."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.event = event

    def notify(self, context: Context) -> None:
        """See ``send``."""
        with _logged("no alert could be made"):
            message = str(context["task"].subject) if self.event == "approval" else _what_failed(context)
            send(Alert(self.event, context["dag"].dag_id, context["run_id"], message))


def _what_failed(context: Context) -> str:
    from heal_tasks.report.events import what_failed

    found = "its steps cannot be read"  # where the database is what failed
    with _logged("an alert lacks the steps of its run"), _store_of(context) as conn:
        found = what_failed(conn, context["run_id"]) or "no step was under way"
    return f"{found} ({context.get('reason')})"


@contextmanager
def _store_of(context: Context) -> Iterator["StoreConnection"]:
    """A connection to the store of the corpus that a DAG is about."""
    from heal_tasks.core.corpora import corpus_of, in_corpus

    with in_corpus(corpus_of(context["dag"].dag_id)), connect_store() as conn:
        yield conn


def run_alerts(context: Context) -> None:
    """Alert about what a run that has ended left undone on purpose."""
    from heal_tasks.report.events import run_events

    with _logged("no alert could be made"), _store_of(context) as conn:
        for name, message in run_events(conn, context["run_id"]).items():
            send(Alert(name, context["dag"].dag_id, context["run_id"], message))


def stale_alert(context: Context, hours: float) -> None:
    """Alert, once for each time, that no run has succeeded for so long."""
    from heal_tasks.report.events import staleness

    with _logged("no alert could be made"), _store_of(context) as conn:
        message, store = staleness(conn, hours), context["asset_state_store"]
        if message and store.get("stale") != message:
            send(Alert("stale", context["dag"].dag_id, context["run_id"], message))
            store.set("stale", message)


async def late(context: dict[str, Any]) -> None:
    """Alert about a run that has missed its deadline; Airflow calls this in the triggerer."""
    run = context["dag_run"]
    message = f"It has not ended by {str(context['deadline']['deadline_time'])[:16]} UTC."
    # In a thread that Airflow's own client can be used from.
    await sync_to_async(send)(Alert("late", run["dag_id"], run["dag_run_id"], message))
