"""Alerts reach a real webhook and a real mail server; a connection that is broken is logged and fails nothing."""

import asyncio
import base64
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from heal_tasks.core.types import JsonObject
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import RunRepository

pytestmark = pytest.mark.usefixtures("plugins")


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def webhook() -> Iterator[tuple[int, list[tuple[str, dict[str, str], Any]]]]:
    """Port of a webhook, and what it got: path, headers, body; a path with ``broken`` gets an error."""
    got: list[tuple[str, dict[str, str], Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.path, dict(self.headers), body))
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *values: object) -> None:
            """Be quiet."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port, got


@pytest.fixture
def mail() -> Iterator[tuple[int, list[list[str]]]]:
    """Port of a mail server, and the lines of each message that it got, envelope first."""
    got: list[list[str]] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines, in_message = list[str](), False
            self.wfile.write(b"220 here\r\n")
            for raw in self.rfile:
                line = raw.decode().rstrip("\r\n")
                if in_message and line != ".":
                    lines.append(line)
                    continue
                lines += [line] if line.upper().startswith(("MAIL", "RCPT")) else []
                if line == ".":
                    got.append(lines)
                in_message = line == "DATA" or line == "data"
                self.wfile.write(b"354 go on\r\n" if in_message else b"250 done\r\n")

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield port, got


def connect_to(monkeypatch: pytest.MonkeyPatch, **connections: JsonObject) -> None:
    for name, fields in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(fields))
    monkeypatch.setenv("HEAL_ALERTS", " ".join(connections))


def send(message: str = "train: out of memory") -> None:
    from heal_alerts import Alert
    from heal_alerts import send as send_alert

    send_alert(Alert("failed", "heal_realign", "manual__2026+1", message))


def test_a_webhook_gets_one_json_object(
    webhook: tuple[int, list[Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port, got = webhook
    connect_to(monkeypatch, hook={
        "conn_type": "http", "host": "127.0.0.1", "port": port, "login": "me", "password": "password-of-hook",
        "extra": {"X-Team": "search"},
    })  # fmt: skip
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/")
    send("postgresql://heal:open-sesame@host/heal refused")
    ((path, headers, body),) = got
    url = "https://airflow.example/dags/heal_realign/runs/manual__2026%2B1"
    assert path in ("", "/")
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"me:password-of-hook").decode()
    assert headers["X-Team"] == "search"
    message = "postgresql://***@host/heal refused"
    assert body == {
        "text": f"heal_realign: run failed\n{message}\n{url}", "event": "failed", "dag_id": "heal_realign",
        "run_id": "manual__2026+1", "message": message, "url": url,
    }  # fmt: skip
    assert not caplog.records


def test_slack_gets_its_own_form(webhook: tuple[int, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    port, got = webhook
    connect_to(
        monkeypatch,
        slack={"conn_type": "slackwebhook", "host": f"http://127.0.0.1:{port}/services", "password": "T0/B0/abcdef"},
    )
    send()
    ((path, _, body),) = got
    assert path == "/services/T0/B0/abcdef"
    assert body.keys() == {"text"}
    assert body["text"].startswith("heal_realign: run failed\ntrain: out of memory\n")


def test_a_mail_is_sent_by_airflows_own_hook(
    mail: tuple[int, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, got = mail
    extra = {"from_email": "heal@example.org", "to": "a@example.org, b@example.org"}
    connect_to(monkeypatch, post={
        "conn_type": "smtp", "host": "127.0.0.1", "port": port,
        "extra": extra | {"disable_ssl": True, "disable_tls": True},
    })  # fmt: skip
    send("train: <b>out of memory</b>")
    (lines,) = got
    assert [line.split(":", 1)[1] for line in lines[:3]] == [
        "<heal@example.org>", "<a@example.org>", "<b@example.org>",
    ]  # fmt: skip
    assert "Subject: heal_realign: run failed" in lines
    part = "\n".join(lines).partition("base64\n\n")[2].partition("\n\n")[0]
    assert "train: &lt;b&gt;out of memory&lt;/b&gt;<br>" in base64.b64decode(part).decode()


def test_what_cannot_be_sent_is_logged_without_secrets_and_holds_up_no_other(
    webhook: tuple[int, list[Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port, got = webhook
    host = f"http://127.0.0.1:{port}"
    connect_to(
        monkeypatch,
        refused={"conn_type": "http", "host": "http://127.0.0.1:9/T0-secret"},
        broken={"conn_type": "http", "host": f"{host}/broken/T0-secret"},
        file={"conn_type": "http", "host": "file:///etc/passwd"},
        mail={"conn_type": "smtp", "host": "127.0.0.1", "port": 9, "password": "P0-secret", "login": "me"},
        other={"conn_type": "ftp", "host": "127.0.0.1"},
        works={"conn_type": "http", "host": host},
    )
    monkeypatch.setenv("HEAL_ALERTS", "absent refused broken file mail other works")
    send()
    assert [path for path, _, _ in got] == ["/broken/T0-secret", "/"]
    for name in ("absent", "refused", "broken", "file", "mail", "other"):
        assert f"alert 'heal_realign: run failed' was not sent to connection '{name}' (" in caplog.text
    assert "secret" not in caplog.text


def test_without_connections_nothing_is_sent_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    send()
    assert not caplog.records


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Alerts that would be sent, as event and message."""
    import heal_alerts

    alerts: list[Any] = []
    monkeypatch.setattr(heal_alerts, "send", lambda alert: alerts.append((alert.event, alert.message)))
    return alerts


DAG = SimpleNamespace(dag_id="heal_realign", get_template_env=lambda **_: None)
CONTEXT: Any = {"dag": DAG, "run_id": "r", "reason": "task_failure"}


def test_the_alert_of_a_failed_run_has_the_steps_that_failed(
    auto: Connection, database_url: str, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from heal_alerts import AlertNotifier

    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    runs = RunRepository(auto)
    for shard in (0, 1):
        runs.begin("train", "f", shard, "r")
        runs.progress("train", "f", shard, "r", 0, 0, "failed: the disk is full")
    AlertNotifier("failed")(CONTEXT | {})
    assert sent == [("failed", "train: failed: the disk is full (task_failure)")]
    monkeypatch.setenv("HEAL_DATABASE_URL", "postgresql://127.0.0.1:9/gone")
    AlertNotifier("failed")(CONTEXT | {})
    assert sent[1] == ("failed", "its steps cannot be read (task_failure)")


def test_a_stale_store_is_alerted_about_once(
    auto: Connection, database_url: str, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from heal_alerts import stale_alert

    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    values: dict[str, str] = {}
    context = CONTEXT | {"asset_state_store": SimpleNamespace(get=values.get, set=values.__setitem__)}
    stale_alert(context, 24)
    assert sent == [], "there never was a run"
    RunRepository(auto).open_run("r")
    RunRepository(auto).finish_run("r", "Nothing to align; no vector was written.")
    auto.execute("UPDATE heal.run SET finished_at = now() - interval '25 h'")
    for _ in range(2):
        stale_alert(context, 24)
    assert [event for event, _ in sent] == ["stale"]
    auto.execute("UPDATE heal.run SET finished_at = now() - interval '50 h'")  # another time since which nothing ended
    stale_alert(context, 24)
    assert [event for event, _ in sent] == ["stale", "stale"]


def test_a_missed_deadline_is_alerted_about(sent: list[Any]) -> None:
    from heal_alerts import late

    run = {"dag_id": "heal_realign", "dag_run_id": "r"}
    asyncio.run(late({"dag_run": run, "deadline": {"deadline_time": "2026-11-30 04:00:00.5+00:00"}}))
    assert sent == [("late", "It has not ended by 2026-11-30 04:00 UTC.")]


def test_events_of_a_run_are_alerted_about_and_no_fault_leaves(
    auto: Connection, database_url: str, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from heal_alerts import run_alerts

    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    runs = RunRepository(auto)
    runs.begin("ask", "f", 0, "r")
    runs.finish("ask", "f", 0, "r", {"refs": {}, "counts": {"over_spend_limit": 7}})
    run_alerts(CONTEXT)
    assert sent == [("spend_limit", "7 calls of the language model are left for the next run.")]
    monkeypatch.setenv("HEAL_DATABASE_URL", "postgresql://127.0.0.1:9/gone")
    run_alerts(CONTEXT)
    assert len(sent) == 1
