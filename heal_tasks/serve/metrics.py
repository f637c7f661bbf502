"""Counters and histograms of the service, in Prometheus' text format."""

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """Numbers counted by upper bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts, self._sum = [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str = "") -> Iterator[str]:
        """The samples of the histogram."""
        total, comma = 0, labels and f"{labels},"
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{comma}le="{bound}"}} {total}'
        braces = labels and f"{{{labels}}}"
        yield f"{name}_sum{braces} {self._sum:.6f}"
        yield f"{name}_count{braces} {total}"


class Metrics:
    """Counters of the service since it started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = Counter[tuple[str, int]]()
        self._texts = Counter[str]()
        self._seconds = defaultdict[str, Histogram](lambda: Histogram(SECONDS))
        self._batches = Histogram(BATCH_SIZES)

    def add_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        with self._lock:
            self._requests[path, status] += 1
            self._seconds[path].add(seconds)

    def add_texts(self, role: str, number: int) -> None:
        """Count texts that were encoded for a request."""
        with self._lock:
            self._texts[role] += number

    def add_batch(self, size: int) -> None:
        """Count a batch of texts."""
        with self._lock:
            self._batches.add(size)

    def text(self, generation_id: int | None) -> str:
        """All metrics; the generation is left out if none is served."""
        with self._lock:
            lines = ["# TYPE heal_serve_requests_total counter"]
            errors = Counter[str]()
            for (path, status), number in sorted(self._requests.items()):
                lines.append(f'heal_serve_requests_total{{path="{path}",status="{status}"}} {number}')
                errors[path] += number * (status >= 400)
            lines += ["# TYPE heal_serve_errors_total counter"]
            lines += [f'heal_serve_errors_total{{path="{path}"}} {number}' for path, number in sorted(errors.items())]
            lines += ["# TYPE heal_serve_texts_total counter"]
            lines += [f'heal_serve_texts_total{{role="{role}"}} {n}' for role, n in sorted(self._texts.items())]
            lines += ["# TYPE heal_serve_seconds histogram"]
            for path, histogram in sorted(self._seconds.items()):
                lines += histogram.lines("heal_serve_seconds", f'path="{path}"')
            lines += ["# TYPE heal_serve_batch_texts histogram", *self._batches.lines("heal_serve_batch_texts")]
            if generation_id is not None:
                lines += ["# TYPE heal_serve_generation gauge", f"heal_serve_generation {generation_id}"]
        return "\n".join(lines) + "\n"
