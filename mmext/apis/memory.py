"""Peak memory of a piece of work, measured where nothing else can hide it.

The peak of a process never falls, and freed memory stays in its heap: whatever ran before hides what comes. A forked
child starts with a peak of its own, equal to what it inherits; and `in_fresh_process` makes the C library hand every
block of more than 64 KB back at once, so that nothing freed is there to be used again.
"""

import gc
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

Result = TypeVar('Result')

ENVIRONMENT = {
    # glibc reads them when a process starts. Without them blocks of up to 32 MB stay in the heap once freed.
    'MALLOC_MMAP_THRESHOLD_': '65536',
    'MALLOC_TRIM_THRESHOLD_': '65536',
    # With its OpenMP, numba (of pymatting) ends every process that is forked once it has run.
    'NUMBA_THREADING_LAYER': 'workqueue',
    'NUMBA_NUM_THREADS': '1',
}


def resident_peak() -> int:
    """Most bytes of memory that this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024  # Linux counts in KB


def peak_on_cpu(work: Callable[[], object]) -> int:
    """Bytes by which a piece of work raises the memory of a process at its highest.

    Runs in a forked child, with one thread: what the work leaves behind is gone afterwards. A process that has run
    threads of OpenMP or a backward pass cannot be forked safely: call it within `in_fresh_process`.

    Raises:
        RuntimeError: the work failed; its traceback is on the standard error.
    """
    gc.collect()
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report_peak, args=(work, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        child.join()
        raise RuntimeError(
            f'the measured work failed with exit code {child.exitcode}; its error stands above'
        ) from error
    finally:
        child.join()


def _report_peak(work: Callable[[], object], sender: Connection) -> None:
    before = resident_peak()
    work()
    sender.send(resident_peak() - before)


def peak_on_gpu(work: Callable[[], object], device: torch.device) -> int:
    """Bytes on the device by which a piece of work raises what torch has allocated at its highest."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def in_fresh_process(function: Callable[..., Result], *args: object) -> Result:
    """`function(*args)` in a new process that gives freed memory back, with one thread.

    Args:
        function: of a module, so that the new process can import it.
        args: that can be pickled.
    """
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        context = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(1, mp_context=context, initializer=_use_one_thread) as pool:
            return pool.submit(function, *args).result()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _use_one_thread() -> None:
    torch.set_num_threads(1)
