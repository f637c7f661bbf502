"""Passwords and keys are in no output, log line or row, however malformed the setting is that they are in."""

import io
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from heal_tasks.cli.doctor import examine
from heal_tasks.core import redaction
from heal_tasks.core.errors import HealError, InputError, RetryableError, SettingsError
from heal_tasks.core.log import configure_logging
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.redaction import redact_logs, redacted, redacted_errors, remember, remember_url
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Rejected
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.db import Connection, connect, password_of
from heal_tasks.store.llm.batches import BatchRepository
from heal_tasks.store.runs.runs import RunRepository
from tests.cli.in_process import run_main

PASSWORDS = (
    "Tr0ub4dor", "p@ss:w0rd/x", "hash#mark?9", "pr%zzcent%", "100%41b", "söme-ünicode", "white space1", "back\\sl[a]sh",
    "℀℁password",
)  # fmt: skip
PARTS = (
    "Tr0ub", "p@ss", "ss:w0", "w0rd", "hash#", "mark?9", "pr%zz", "zzcent", "100%", "söme", "ünicode", "space1",
    "back\\", "℀℁",
)  # fmt: skip
DATABASES = (
    "postgresql://heal:{}@127.0.0.1:1/db",
    "postgresql://heal:{}@127.0.0.1:port/db",
    "postgresql://heal:{}@127.0.0.1:99999/db",
    "postgresql://heal:{}@/db",
    "postgresql://heal:{}@[::1/db",
    "postgresql://heal:{}@host name/db",
    "mysql://heal:{}@127.0.0.1/db",
    "postgresql:/heal:{}@127.0.0.1/db",
    "heal:{}@127.0.0.1/db",
    "host=127.0.0.1 port=1 user=heal password={}",
    "postgresql://heal:{}@127.0.0.1:1/db?sslmode=nonsense",
    "postgresql://heal:{}@127.0.0.1:1/db?nonsense",
    "postgresql://:{}@no-such-host.invalid/db",
    "postgres://heal:{}@a:1,b:x/db",
)
ENDPOINTS = (
    "http://user:{}@127.0.0.1:1/v1",
    "http://user:{}@127.0.0.1:port/v1",
    "http://user:{}@127.0.0.1:99999/v1",
    "http://user:{}@/v1",
    "http://user:{}@[::1/v1",
    "ftp://user:{}@127.0.0.1/v1",
    "user:{}@127.0.0.1/v1",
    "http://user:{}@no-such-host.invalid/v1",
    "http:/user:{}@127.0.0.1/v1",
    "https://user:{}@127.0.0.1:1",
)


def check(text: str, password: str) -> None:
    __tracebackhide__ = True
    assert password not in text, text
    assert quote(password, safe="") not in text, text
    for part in PARTS:
        assert part not in password or part not in text, (part, text)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("HEAL_") or name == "OPENAI_API_KEY"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("template", DATABASES)
@pytest.mark.parametrize("encoded", [False, True], ids=["raw", "encoded"])
def test_a_database_url_is_not_quoted(template: str, password: str, encoded: bool) -> None:
    url = template.format(quote(password, safe="") if encoded else password)
    for call in (connect, password_of):
        try:
            call(url)
        except (SettingsError, RetryableError) as error:
            check(str(error), password)
            cause = error.__cause__
            assert cause is None or isinstance(cause, psycopg.OperationalError)
            check(str(cause), password)


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("name", ["llm_base_url", "s3_endpoint_url"])
@pytest.mark.parametrize("template", ENDPOINTS)
def test_an_endpoint_is_not_quoted(tmp_path: Path, template: str, name: str, password: str) -> None:
    try:
        settings = load_settings(
            **{name: template.format(password)},
            var_dir=tmp_path,
            sources="s3://bucket/docs",
            source_roots="s3://bucket",
        )
    except SettingsError as error:
        check(str(error), password)
        return
    check(repr(examine_some(settings)), password)


def examine_some(settings: Settings) -> list[str]:
    from heal_tasks.cli import doctor

    found = []
    for check_ in (doctor._llm, doctor._sources) if settings.s3_endpoint_url is None else (doctor._llm,):
        try:
            found += [redacted(text) for _, text in check_(settings)]
        except Exception as error:
            found.append(redacted(f"{type(error).__name__}: {error}"))
    return found


def test_every_finding_of_doctor_is_redacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-1")
    settings = load_settings(
        var_dir=tmp_path,
        database_url="postgresql://heal:hidden-1@127.0.0.1:1/db",
        llm_base_url="http://u:hidden-2@127.0.0.1:1/v1",
        llm_api_key="hidden-3",
        s3_endpoint_url="http://u:hidden-4@127.0.0.1:1",
        sources="s3://b/x",
        source_roots="s3://b",
        artifacts_uri="s3://user:hidden-5@bucket/x",
    )
    text = repr(examine(settings))
    assert "hidden-" not in text
    assert "aws-secret" not in text


def test_commands_print_no_secret(
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = database_url.rsplit(":", 1)[1].split("/")[0]
    ingest, ask = ["ingest", "--run-id", "r"], ["ask", "--run-id", "r"]
    cases = {
        "HEAL_DATABASE_URL": (
            f"postgresql://heal:p@ss:w0rd/x@127.0.0.1:{port}/db", [["doctor"], ["plan"], ingest, ask, ["settings"]],
        ),
        "HEAL_LLM_BASE_URL": ("http://user:p@ss:w0rd/x@127.0.0.1:1/v1", [["doctor"], ["plan"], ask]),
        "HEAL_S3_ENDPOINT_URL": ("http://user:p@ss:w0rd/x@127.0.0.1:1", [["doctor"], ingest]),
    }  # fmt: skip
    places = {"HEAL_VAR_DIR": str(tmp_path), "HEAL_DATABASE_URL": database_url}
    for name, (value, commands) in cases.items():
        for command in commands:
            monkeypatch.setattr(redaction, "_known", {})  # as a new process
            with caplog.at_level(logging.DEBUG):
                status, *printed = run_main(*command, **places | {name: value})
            said = "".join(printed) + caplog.text
            check(said, "p@ss:w0rd/x")
            assert said
            if command != ["settings"]:
                assert status in (0, 1), said


def test_a_process_prints_no_secret(tmp_path: Path) -> None:
    """Standard error, too, and what is said before logging is set up."""
    url = "postgresql://heal:p@ss:w0rd/x@127.0.0.1:1/db"
    environment = {"HEAL_VAR_DIR": str(tmp_path), "HEAL_DATABASE_URL": url, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-m", "heal_tasks", "ingest", "--run-id", "r"],
        env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 1
    check(done.stdout + done.stderr, "p@ss:w0rd/x")
    assert "error: " in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://heal:pw@host:1/db is down", "postgresql://***@host:1/db is down"),
        ("url 'http://u:p@ss@host/v1'", "url 'http://***@host/v1'"),
        ("connection host=h password=geheim user=x", "connection host=h password=*** user=x"),
        ("connection host=h password='ge heim' user=x", "connection host=h password=*** user=x"),
        ("GET /v1?api_key=abcdef&x=1", "GET /v1?api_key=***&x=1"),
        ('{"password": "geheim", "x": 1}', '{"password": "***", "x": 1}'),
        ("Authorization: Bearer abc.DEF-123_456", "Authorization: Bearer ***"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA1=", "Authorization: Basic ***"),
        ("Incorrect API key provided: sk-proj-abcdefgh1234", "Incorrect API key provided: sk-***"),
        (
            "s3://bucket/mail@example.com/a.txt could not be read",
            "s3://bucket/mail@example.com/a.txt could not be read",
        ),
        ("bucket user:geheim@bucket, sent at 12:30", "bucket user:***@bucket, sent at 12:30"),
        (
            "basic authentication is required; write to me@example.com",
            "basic authentication is required; write to me@example.com",
        ),
        ("max_tokens=100, token 'x' is unknown", "max_tokens=100, token 'x' is unknown"),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize("part", ["a-", "a:", "a:bcd", "sk-", "//x", "password="])
def test_a_long_text_is_redacted_in_linear_time(part: str) -> None:
    start = time.process_time()
    redacted(part * 50_000)
    assert time.process_time() - start < 5  # by comparing every place with all that follow: 20 to 60 s


def test_a_remembered_secret_is_masked_wherever_it_is() -> None:
    remember_url("postgresql://me:corr%40ct-horse@h/db")
    remember("key-0123456789")
    remember("word5")
    assert redacted("xx corr@ct-horse, corr%40ct-horse") == "xx ***, ***"
    assert redacted("akey-0123456789b") == "a***b"
    assert redacted("word5 sword55") == "*** sword55"
    assert str(InputError("of key-0123456789")) == "of ***"


def test_logs_and_their_tracebacks_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    redact_logs()
    remember("very-secret-log-key")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    configure_logging("INFO")
    logger = logging.getLogger("any.library")
    logger.addHandler(handler)
    try:
        logger.warning("at %s with %d", "http://u:pass1word@h/", 3)
        try:
            raise ValueError("very-secret-log-key") from OSError("postgresql://u:pass2word@h/db")
        except ValueError:
            logger.exception("failed")
        logger.warning("%s", "plain")
    finally:
        logger.removeHandler(handler)
    text = stream.getvalue()
    assert "pass1word" not in text
    assert "pass2word" not in text
    assert "very-secret" not in text
    assert "at http://***@h/ with 3" in text
    assert "ValueError: ***" in text
    assert "plain" in text


def test_an_error_that_leaves_a_step_is_redacted_with_its_causes(settings: Settings, auto: Connection) -> None:
    remember("cause-secret-77")

    def body(context: Context) -> Outcome:
        context.progress(1, 2, "at http://u:progress-secret@h/")
        try:
            raise OSError("refused http://u:inner-secret@h/")
        except OSError as error:
            raise InputError("with cause-secret-77") from error

    with pytest.raises(HealError) as raised:
        Step("failing", body, None).run(settings, Manifest(run_id="r"))
    cause = raised.value.__cause__
    assert raised.value.args == ("with ***",)
    assert str(cause) == "refused http://***@h/"
    rows = auto.execute("SELECT message FROM heal.step_result").fetchall()
    assert rows == [("failed: with ***",)]
    with pytest.raises(ValueError, match=r"^at http://\*\*\*@h$"), redacted_errors():
        raise ValueError("at http://u:p@h")


def test_stored_rows_have_no_secret(auto: Connection) -> None:
    runs = RunRepository(auto)
    runs.open_run("r")
    runs.quarantine("r", "s", [Rejected("p", 1, "refused by http://u:row-secret@h/", "raw")])
    runs.finish_run("r", "failed: http://u:row-secret@h/")
    BatchRepository(auto, "http://u:row-secret@h/v1")
    assert "row-secret" not in repr(auto.execute("SELECT verdict FROM heal.run").fetchall())
    assert "row-secret" not in repr(auto.execute("SELECT reason FROM heal.quarantine").fetchall())


def test_endpoints_that_were_stored_with_a_password_lose_it(auto: Connection) -> None:
    auto.execute(
        "INSERT INTO heal.llm_batch (batch_key, run_id, shard, endpoint, model, prompt_hash, texts, counts) "
        "VALUES ('k', 'r', 0, 'http://u:p@ss@h/v1', 'm', 'p', 0, '{}')"
    )
    text = (Path(__file__).parents[2] / "heal_tasks/store/sql/012_locks.sql").read_text()
    auto.execute(text[text.index("UPDATE") :].encode())
    stored = BatchRepository(auto, "http://u:p@ss@h/v1")
    assert auto.execute("SELECT endpoint FROM heal.llm_batch").fetchone() == ("http://***@h/v1",)
    assert [batch.batch_key for batch in stored.open()] == ["k"]
