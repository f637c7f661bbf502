"""Keeps what a training on a processor frees in the process, for the next step to use."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt(3)."""


@contextmanager
def freed_memory_kept(device: str) -> Iterator[None]:
    """Let the process keep the memory that it frees inside the block; on a GPU and without glibc nothing changes.

    glibc takes every block of more than 32 MiB from the system and returns it when it is freed, so the activations of
    a large batch fault in page by page in every step: with 64 questions and two texts of 256 tokens for each, a step
    took about 47 s instead of 34 (bench/RESULTS.md).

    Args:
        device: that the model is on, from ``pick_device``.
    """
    libc = ctypes.CDLL(None)
    if device != "cpu" or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        # A threshold that was set no longer adapts; these are where glibc's own end on 64 bits.
        for parameter, value in ((MMAP_MAX, 65536), (MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 64 << 20)):
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
