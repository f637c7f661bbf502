"""Logging for the command line, and progress of long work as log lines with rate and time left."""

import logging
import time
from collections import deque

from heal_tasks.core.text import printable
from heal_tasks.core.types import Progress


class _Formatter(logging.Formatter):
    """Writes records without the control characters in what they quote."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def configure_logging(level: str) -> None:
    """Log to standard error, one line per record; Airflow has handlers of its own."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler])
    for noisy in ("httpx", "httpx2", "openai", "botocore", "urllib3", "filelock", "datasets", "sentence_transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def format_duration(seconds: float) -> str:
    """``75`` -> ``1m15s``; under a minute one decimal. A clock that was set back between two times makes it zero."""
    seconds = max(seconds, 0.0)
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


class LoggedProgress:
    """A Progress that logs at most every ``every_s`` seconds, with units per second and time left.

    ``label`` names the work, for example ``embed``; ``also`` receives every call that is logged.
    """

    def __init__(self, logger: logging.Logger, label: str, every_s: float = 5.0, also: Progress | None = None) -> None:
        self._logger, self._label, self._every_s, self._also = logger, label, every_s, also
        self._logged_at = float("-inf")
        # The latest reports, for the rate: few enough to forget a slow start, enough to be steady.
        self._points: deque[tuple[float, int]] = deque(maxlen=20)

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """Report ``done`` of ``total`` units."""
        now = time.monotonic()
        if done == 0:
            # Work before the first unit is preparation for all of them, and no part of the rate.
            self._points.clear()
        if not self._points or done != self._points[-1][1]:
            self._points.append((now, done))
        if done < total and now - self._logged_at < self._every_s:
            return
        self._logged_at = now
        text = ", ".join(filter(None, [self._pace(total), message]))
        self._logger.info("%s %d/%d %s", self._label, done, total, text)
        if self._also is not None:
            self._also(done, total, text)

    def _pace(self, total: int) -> str:
        """Units per second over the latest reports, and time left; empty until two reports differ."""
        (then, first), (now, last) = self._points[0], self._points[-1]
        if last <= first or now <= then:
            return ""
        rate = (last - first) / (now - then)
        return f"{rate:.1f}/s, {format_duration((total - last) / rate)} left"
