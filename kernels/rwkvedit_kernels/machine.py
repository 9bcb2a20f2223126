"""What this machine can do at best: how fast it reads memory, how fast it multiplies.

Yardsticks for benchmarks; they know nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numba import njit

from .dispatch import threads
from .pool import run_job
from .simd import atomic_add, load, ring, wait_until

_CHUNK = 1 << 18  # floats a ticket (1 MiB)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _read(data, sums, ctrl, bell, turn, finish):
    if finish:
        ring(bell)
    chunks = data.size // _CHUNK
    while True:
        ticket = atomic_add(ctrl, 0, 1)
        if ticket >= chunks:
            if finish:
                wait_until(ctrl, 8, chunks)
            return
        total = np.float32(0.0)
        for i in range(_CHUNK):
            total += load(data, ticket * _CHUNK + i)
        sums[ticket] = total
        atomic_add(ctrl, 8, 1)


def best_seconds(call: Callable[[], object], repeats: int) -> float:
    """The shortest of ``repeats`` timings, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def readers(megabytes: int = 512) -> tuple[list[Callable[[], object]], int]:
    """Calls that each read an array of floats once on all threads, and its bytes.

    This package's reader and ``torch.sum``: the faster one is the yardstick, for a ceiling must
    not be too low.
    """
    data = np.ones((megabytes << 20) // 4 // _CHUNK * _CHUNK, np.float32)
    sums = np.zeros(data.size // _CHUNK, np.float32)

    def ours() -> None:
        run_job(_read, (data, sums, np.zeros(16, np.int64)), threads())

    return [ours, torch.from_numpy(data).sum], data.nbytes


def read_bandwidth(megabytes: int = 512, repeats: int = 7) -> float:
    """Bytes a second that all threads together read from memory, at best."""
    calls, size = readers(megabytes)
    return size / min(best_seconds(call, repeats) for call in calls)


def matmul_rate(size: int = 1024, repeats: int = 5, device: str = "cpu") -> float:
    """Floating-point operations a second of torch's float32 matrix product."""
    a = torch.ones(size, size, device=device)
    b = torch.ones(size, size, device=device)

    def product() -> None:
        torch.mm(a, b)
        if a.is_cuda:
            torch.cuda.synchronize()

    return 2 * size**3 / best_seconds(product, repeats)
