"""A secret in any setting that takes a text is in no output, log, row or file, whether the setting is right or wrong.

The settings are found in their class, so a new one is tested without anybody thinking of it.
"""

import logging
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.store.db import connect
from tests.cli.in_process import run_main

SECRET = "Pl4ntedW0rd%77"


def kind(name: str) -> str:
    """The type of a setting, in words."""
    return str(Settings.model_fields[name].annotation)


TEXTS = sorted(name for name in Settings.model_fields if "str" in kind(name).lower() and "Literal" not in kind(name))
"""Settings that are a text, a secret, or several texts."""
FORMS = ("https://somebody:{}@127.0.0.1:1/x", "s3://somebody:{}@bucket/x", "{}")
"""A secret in the URL of a server, in the name of a bucket, and alone, where the setting is a secret."""
COMMANDS = (["settings"], ["ingest", "--run-id", "r"], ["plan"], ["ask", "--run-id", "r"], ["search", "words"])
QUICK = 2
"""So many of the commands are run for every setting in ``make test``; ``make soak`` runs all."""

Run = Callable[..., str]


def spellings(secret: str) -> set[str]:
    """The forms in which a secret may appear: as it is, in a URL, in a header."""
    basic = b64encode(f"somebody:{secret}".encode()).decode()
    return {secret, quote(secret, safe=""), secret.replace("%77", "w"), basic, basic.rstrip("=")}


def stored(url: str) -> str:
    """All rows of a database, as text."""
    with connect(url, autocommit=True) as conn:
        tables = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace AND relkind = 'r'"
        )
        return "\n".join(
            str(conn.execute(f"SELECT t::text FROM heal.{table} t".encode()).fetchall())
            for (table,) in tables.fetchall()
        )


def written(folder: Path) -> str:
    """The names and the contents of all files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(f"{path} {path.read_bytes().decode('latin-1')}" for path in files)


@pytest.fixture
def run(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Run]:
    """Run a command with variables; all that it has printed and logged."""
    monkeypatch.chdir(settings.var_dir)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    inbox = settings.var_dir / "inbox"
    inbox.mkdir()
    (inbox / "a.txt").write_text("The lighthouse at Cape Verity was built in 1872 by Ada Holm.")

    def work(arguments: list[str], **variables: str) -> str:
        given = {"database_url": settings.require_database_url(), "var_dir": str(settings.var_dir)} | variables
        with caplog.at_level(logging.DEBUG):
            _, *printed = run_main(*arguments, **{f"HEAL_{name.upper()}": value for name, value in given.items()})
        return "".join(printed) + caplog.text

    yield work


def test_the_settings_are_those_that_hold_texts() -> None:
    assert {"database_url", "llm_base_url", "llm_api_key", "artifacts_uri", "sources", "serve_token"} <= set(TEXTS)
    assert len(TEXTS) >= 20


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "corpus"])
def test_a_secret_in_a_setting_is_nowhere(run: Run, settings: Settings, name: str, soak: bool) -> None:
    beside = dict[str, str]()
    if name == "llm_api_key":  # nobody is asked on the network
        beside["llm_base_url"] = "http://127.0.0.1:1/v1"
    for form in FORMS if "Secret" in kind(name) else FORMS[:-1]:
        for command in COMMANDS if soak else COMMANDS[:QUICK]:
            said = run(command, **{name: form.format(SECRET)}, **beside)
            found = [text for text in spellings(SECRET) if text in said]
            assert not found, (command, form, said[-2000:])
    kept = stored(settings.require_database_url()) + written(settings.var_dir)
    assert not [text for text in spellings(SECRET) if text in kept]
