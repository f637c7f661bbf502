"""Progress as log lines."""

import logging

import pytest

from heal_tasks.core.log import LoggedProgress, format_duration


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0s"), (59.9, "59.9s"), (75, "1m15s"), (3725, "1h02m")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_rate_forgets_a_slow_start(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    monkeypatch.setattr("heal_tasks.core.log.time.monotonic", lambda: clock[0])
    told: list[tuple[int, int, str]] = []
    progress = LoggedProgress(logging.getLogger("slow"), "train", every_s=1.0, also=lambda *call: told.append(call))
    with caplog.at_level(logging.INFO):
        progress(0, 100)
        for _ in range(3):
            clock[0] += 1000
            progress(0, 100, "still looking")
        for done in range(1, 41):
            clock[0] += 2
            progress(done, 100)
    assert told[0] == (0, 100, "")
    assert told[1:4] == [(0, 100, "still looking")] * 3
    assert told[4] == (1, 100, "0.5/s, 3m18s left")
    assert told[-1] == (40, 100, "0.5/s, 2m00s left")
    assert caplog.messages[-1] == "train 40/100 0.5/s, 2m00s left"


def test_lines_are_rare_but_the_end_is_always_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("heal_tasks.core.log.time.monotonic", lambda: clock[0])
    told: list[int] = []
    progress = LoggedProgress(logging.getLogger("quick"), "embed", every_s=5.0, also=lambda done, *_: told.append(done))
    for done in range(101):
        clock[0] += 0.125
        progress(done, 100)
    assert told == [0, 40, 80, 100]
