"""Memory that a training frees and takes again."""

import ctypes
import resource

import pytest
import torch

from heal_tasks.training.memory import freed_memory_kept


def faults() -> int:
    """Page faults of filling four blocks of 64 MiB, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.zeros(64 << 18).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_a_freed_block_is_used_again_without_faulting_in() -> None:
    faults()
    outside = faults()
    with freed_memory_kept("cpu"):
        faults()
        inside = faults()
    with freed_memory_kept("cuda:0"):
        unchanged = faults()
    after = faults()
    assert inside < min(outside, unchanged, after) / 4
