"""Ports, health and the record of components, without starting Airflow."""

import socket
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from heal_tasks.core.errors import AirflowError, SettingsError
from heal_tasks.core.settings import load_settings
from heal_tasks.local import components, stack
from heal_tasks.local.components import State, choose_port, is_healthy, read_state, write_state
from heal_tasks.local.processes import Recorded


@pytest.fixture
def taken() -> socket.socket:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def test_state_survives_and_is_private(tmp_path: Path) -> None:
    state = State(
        port=8081, wanted_port=8080, environment="abc",
        components={"scheduler": Recorded(1, 2.5, "log", ends_its_own=True)},
    )  # fmt: skip
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert stat.S_IMODE((tmp_path / "airflow" / "pids.json").stat().st_mode) == 0o600
    assert read_state(tmp_path / "elsewhere") == State()


def test_a_taken_port_is_skipped(taken: socket.socket) -> None:
    wanted = taken.getsockname()[1]
    state = State()
    choose_port(wanted, state)
    assert wanted < state.port < wanted + components.PORTS_TRIED
    assert state.wanted_port == wanted


def test_the_last_port_is_kept_only_for_the_same_setting(taken: socket.socket) -> None:
    free = State()
    choose_port(0, free)
    state = State(port=free.port, wanted_port=0)
    choose_port(0, state)
    assert state.port == free.port
    # It was the next best one; now the setting names another.
    state = State(port=1, wanted_port=2)
    choose_port(free.port, state)
    assert state.port == free.port
    # Somebody else has it by now.
    state = State(port=taken.getsockname()[1], wanted_port=0)
    choose_port(0, state)
    assert state.port != taken.getsockname()[1]


def test_no_port_left(taken: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "PORTS_TRIED", 1)
    with pytest.raises(SettingsError, match=r"are taken; set HEAL_AIRFLOW_PORT to a free one"):
        choose_port(taken.getsockname()[1], State())


def test_the_heartbeat_of_a_predecessor_does_not_count_as_healthy() -> None:
    started = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
    old, new = "2026-11-21T11:59:50+00:00", "2026-11-21T12:00:05+00:00"
    assert is_healthy({"status": "healthy", "latest_scheduler_heartbeat": new}, started)
    assert not is_healthy({"status": "healthy", "latest_scheduler_heartbeat": old}, started)
    assert not is_healthy({"status": "healthy", "latest_scheduler_heartbeat": None}, started)
    assert not is_healthy({"status": "unhealthy", "latest_scheduler_heartbeat": new}, started)
    assert is_healthy({"status": "healthy"}, started)
    assert not is_healthy({}, started)


def test_nothing_started(tmp_path: Path) -> None:
    settings = load_settings(var_dir=tmp_path / "new")
    found = stack.status(settings)
    assert not found.healthy
    assert "never started here" in found.lines()[-1]
    with pytest.raises(AirflowError, match=r"does not run with the state in .*make up"):
        stack.running(settings)
    said: list[str] = []
    stack.down(settings, said.append)
    assert said == [f"nothing has been started in {tmp_path / 'new'}"]
    assert not (tmp_path / "new").exists()
