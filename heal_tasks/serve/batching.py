"""Encode the texts of many requests together, on one thread."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.models import Role
from heal_tasks.steps.vectors.encoders import TextEncoder

MAX_BATCH = 64
"""Texts per batch. A longer request is encoded in parts, between which others get their turn."""

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Job:
    encoder: TextEncoder
    role: Role
    texts: Sequence[str]
    vectors: Future[Float32Array] = field(default_factory=Future)


class Batcher:
    """Encodes what waits, as soon as the batch before it is done; nobody waits for a batch to fill.

    Args:
        observe: told the number of texts of each batch.
    """

    def __init__(self, observe: Callable[[int], None]) -> None:
        self._observe = observe
        self._waiting = deque[_Job]()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    def encode(self, encoder: TextEncoder, texts: Sequence[str], role: Role) -> Float32Array:
        """Unit vectors of n texts, float32, shape (n, d); may be called from any thread."""
        remaining, parts = iter(texts), []
        while part := list(islice(remaining, MAX_BATCH)):
            job = _Job(encoder, role, part)
            self._waiting.append(job)
            self._worker.submit(self._work)  # as many calls as jobs, so that none is left
            parts.append(job.vectors.result())
        return np.concatenate(parts)

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        self._worker.shutdown()

    def _work(self) -> None:
        taken, size = defaultdict[tuple[int, Role], list[_Job]](list), 0
        # Only this thread takes jobs away.
        while self._waiting and size + len(self._waiting[0].texts) <= MAX_BATCH:
            job = self._waiting.popleft()
            size += len(job.texts)
            taken[id(job.encoder), job.role].append(job)
        for jobs in taken.values():
            self._encode(jobs)

    def _encode(self, jobs: list[_Job]) -> None:
        first = jobs[0]
        try:
            vectors = first.encoder.encode([text for job in jobs for text in job.texts], role=first.role)
        except Exception as error:
            if len(jobs) == 1:
                first.vectors.set_exception(error)
                return
            for job in jobs:  # one request's text must not fail the others
                self._encode([job])
            return
        self._observe(len(vectors))
        start = 0
        for job in jobs:
            job.vectors.set_result(vectors[start : start + len(job.texts)])
            start += len(job.texts)
