"""Peaks of known sizes."""

import mmap

import pytest

from mmext.apis.memory import in_fresh_process, peak_on_cpu

MEGABYTE = 2**20


def touch(num_bytes: int) -> None:
    """Memory of this size, every page of it written, given back at once."""
    with mmap.mmap(-1, num_bytes) as block:
        for start in range(0, num_bytes, mmap.PAGESIZE):
            block[start] = 1


def fail() -> None:
    raise ArithmeticError('as it should')


def test_peak_on_cpu__what_was_given_back_counts_and_what_came_before_does_not():
    touch(60 * MEGABYTE)
    peak = peak_on_cpu(lambda: touch(20 * MEGABYTE))
    # The kernel counts the pages of a process a few dozen at a time.
    assert 19 * MEGABYTE <= peak < 30 * MEGABYTE


def test_peak_on_cpu__work_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match='exit code 1'):
        peak_on_cpu(fail)


@pytest.mark.slow
def test_in_fresh_process__gives_freed_memory_back():
    assert in_fresh_process(peak_after_free, 20) >= 20 * MEGABYTE


def peak_after_free(megabytes: int) -> int:
    """Peak of an allocation for which a normal heap would have room left from before."""
    import torch

    for _ in range(3):
        torch.ones(megabytes * MEGABYTE, dtype=torch.uint8)
    return peak_on_cpu(lambda: torch.ones(megabytes * MEGABYTE, dtype=torch.uint8))
