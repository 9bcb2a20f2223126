"""Threads that help with one nogil job. They know nothing of what it computes.

A job is a numba function ``job(*args, bell, turn, finish)`` that draws tickets from an atomic
counter until none are left. The caller's has ``finish``: it first rings the bell (``simd.ring``),
and in the end waits for the last ticket's holder. A helper's may then linger until the bell's
count is no longer ``turn`` (``simd.linger``): inside a job it needs no lock of the interpreter's,
so that it is there at once for the next of many short jobs.

The caller always works itself and never waits for a helper to arrive, so a job ends even if none
does. Unlike numba's own thread pools this is safe to call from several Python threads at once, and
sleeps between jobs that are far apart.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

from .simd import linger

_LINGER = 0.5e-3  # seconds: a token's sampling and printing


class _Helpers:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: list[SimpleQueue] = []
        self._pid = os.getpid()
        self.bell = np.zeros(2, np.int64)
        """Jobs begun, and how many looks at that number a helper waits for the next."""

    def offer(self, count: int, job: Callable[..., None], args: tuple) -> None:
        if self._pid != os.getpid() or len(self._queues) < count:
            with self._lock:
                if self._pid != os.getpid():  # threads do not survive a fork
                    self._queues, self._pid = [], os.getpid()
                if not self.bell[1]:
                    self.bell[1] = looks_within(_LINGER)
                while len(self._queues) < count:
                    queue: SimpleQueue = SimpleQueue()
                    name = f"rwkvedit-worker-{len(self._queues) + 1}"
                    threading.Thread(target=_serve, args=(queue,), name=name, daemon=True).start()
                    self._queues.append(queue)
        for queue in self._queues[:count]:
            queue.put((job, args))


def _serve(queue: SimpleQueue) -> None:
    while True:
        job, args = queue.get()
        job(*args, False)  # not ``finish``
        del args  # or the last job's arrays would live until the next


def looks_within(seconds: float) -> int:
    """About how many times a lingering helper looks at the bell in that time."""
    bell = np.array([0, 1], np.int64)
    linger(bell, 0)  # compiled by now
    bell[1] = 2000
    began = time.perf_counter()
    linger(bell, 0)
    return max(1, int(bell[1] * seconds / max(time.perf_counter() - began, 1e-9)))


_helpers = _Helpers()


def bell() -> np.ndarray:
    """The helpers' bell: jobs begun, and how many looks at that number a helper waits."""
    return _helpers.bell


def call_helpers(count: int, job: Callable[..., None], args: tuple) -> None:
    """Have ``count`` helpers run ``job(*args, False)`` as soon as they can; a job that rings and
    lingers by itself takes the bell among its own arguments."""
    _helpers.offer(count, job, args)


def run_job(job: Callable[..., None], args: tuple, workers: int) -> None:
    """Run ``job`` on this thread and up to ``workers - 1`` helpers; returns when it is done."""
    args = (*args, _helpers.bell, int(_helpers.bell[0]) + 1)
    if workers > 1:
        _helpers.offer(workers - 1, job, args)
    job(*args, True)
