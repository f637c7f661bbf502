"""Memory that a training frees and takes again."""

import ctypes
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import psutil
import pytest
import torch

from heal_tasks.training.memory import freed_memory_kept


def faults() -> int:
    """Page faults of filling four blocks of 64 MiB, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.zeros(64 << 18).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_mib() -> float:
    """Memory that this process holds."""
    return psutil.Process().memory_info().rss / 2**20


def around(device: str) -> tuple[int, int, float, float]:
    """Faults before the block and inside it, and the MiB that it holds inside and afterwards."""
    before, start_mib = faults(), resident_mib()
    with freed_memory_kept(device):
        # glibc 2.36 seldom reuses an aligned block before its neighbours are free too: the heap grows for a few rounds.
        inside = min(faults() for _ in range(10))
        inside_mib = resident_mib()
    return before, inside, inside_mib - start_mib, resident_mib() - start_mib


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_processor_uses_a_freed_block_again_and_returns_it_at_the_end(device: str) -> None:
    # In a process of its own: what other tests freed in the middle of this one's heap is used again anyway.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        before, inside, inside_mib, after_mib = process.submit(around, device).result()
    kept = device == "cpu"
    assert (inside < before / 4) is kept
    assert (inside_mib > 48) is kept
    assert after_mib < 16
