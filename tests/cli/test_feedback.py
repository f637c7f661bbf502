"""The commands about feedback."""

import json

import pytest
from typer.testing import CliRunner

from heal_tasks.cli.app import app
from heal_tasks.store.db import connect, scalar
from heal_tasks.store.questions.feedback import record_feedback
from tests.store.sample_store import SampleStore


def test_votes_are_listed_and_removed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    run = CliRunner()
    assert "there is no feedback" in run.invoke(app, ["feedback", "list"]).output
    with connect(database_url, autocommit=True) as conn:
        SampleStore(conn).load(a="about a")
        record_feedback(conn, "which?", int(scalar(conn, "SELECT chunk_id FROM heal.chunk")), False, "ann")
    listed = run.invoke(app, ["feedback", "list", "--json"]).output
    assert (
        json.loads(listed).items() >= {"question": "which?", "external_id": "a", "voter": "ann", "good": False}.items()
    )
    assert "ann" in run.invoke(app, ["feedback", "list"]).output
    unknown = run.invoke(app, ["feedback", "remove", "--voter", "bob"])
    assert (unknown.exit_code, "no votes of 'bob'" in str(unknown.exception)) == (1, True)
    assert "1 votes of ann removed" in run.invoke(app, ["feedback", "remove", "--voter", "ann"]).output
