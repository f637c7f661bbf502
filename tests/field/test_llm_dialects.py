"""Every way in which a server was seen to answer: few calls, nothing settled without an answer, the rest asked once."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from heal_tasks.core.errors import HealError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.endpoint.endpoint import EndpointConfig
from heal_tasks.store.db import Connection, connect
from tests.fake_openai import FakeOpenAI
from tests.field.dialects import CHUNKS, MODES, Mode
from tests.steps.asking import add, ask, number, traffic, with_llm

SECRET = "secret-key-123"


@pytest.fixture(scope="module")
def shared(module_database_url: str) -> Iterator[Connection]:
    """A database with the chunks."""
    with connect(module_database_url, autocommit=True) as conn:
        add(conn, range(CHUNKS))
        yield conn


@pytest.fixture
def asked(shared: Connection, module_database_url: str, tmp_path: Path) -> Settings:
    """Settings for that database, as if nothing had been asked yet."""
    shared.execute("TRUNCATE heal.chunk_asked, heal.question, heal.llm_call, heal.step_result, heal.run CASCADE")
    return load_settings(var_dir=tmp_path, database_url=module_database_url)


def states(conn: Connection) -> dict[str, int]:
    return dict(conn.execute("SELECT state, count(*) FROM heal.question_state GROUP BY 1").fetchall())


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_a_dialect(shared: Connection, asked: Settings, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    config = partial(EndpointConfig, max_retries=mode.retries, backoff_s=0.001, patience_s=0.02)
    monkeypatch.setattr("heal_tasks.steps.writing.llm_calls.EndpointConfig", config)
    with FakeOpenAI(mode.rule, mode.rule if mode.probe else None) as fake:
        wanted = with_llm(asked, fake, llm_concurrency=2, llm_timeout_s=0.4, llm_api_key=SECRET)
        if mode.fails is None:
            made = ask(wanted)
            assert made.counts["asked"] == CHUNKS
        else:
            kind, words = mode.fails
            with pytest.raises(kind, match=rf"(?s){words}") as caught:
                ask(wanted)
            assert fake.base_url in str(caught.value)
            assert SECRET not in str(caught.value)
        assert 0 < traffic(fake) <= mode.calls
        calls = shared.execute("SELECT DISTINCT status FROM heal.llm_call WHERE content_hash <> ''").fetchall()
        assert {status for (status,) in calls} == mode.statuses
        found = states(shared)
        assert found.pop(mode.state) == (CHUNKS if mode.state != "failed" else CHUNKS - found.pop("open", 0))
        assert not found, "nothing else has come of any chunk"
        settled = number(shared, "SELECT count(*) FROM heal.chunk_asked")
        assert settled == (0 if mode.state == "failed" else CHUNKS)
        assert (number(shared, "SELECT count(*) FROM heal.question") > 0) == (mode.state == "answered")

        fake.rule = fake.probe_rule = None
        wanted = wanted.model_copy(update={"llm_timeout_s": 30.0})  # which a busy machine keeps
        fake.requests.clear()
        made = ask(wanted, "r2")
        again = [request.passage for request in fake.requests]
        assert len(again) == len(set(again)) == CHUNKS - settled
        assert made.counts["asked"] == CHUNKS - settled
    assert states(shared) == {mode.state if settled else "answered": CHUNKS}


def test_the_error_names_no_user_of_the_url(shared: Connection, asked: Settings) -> None:
    with FakeOpenAI(mode := MODES["404"].rule, mode) as fake:
        url = fake.base_url.replace("//", "//user:pass-word@")
        with pytest.raises(HealError) as caught:
            ask(with_llm(asked, fake, llm_base_url=url))
    assert "pass-word" not in str(caught.value)
    assert "pass-word" not in str(shared.execute("SELECT raw_reply FROM heal.llm_call").fetchall())
