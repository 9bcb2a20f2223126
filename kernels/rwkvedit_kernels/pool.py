"""Threads that help with one nogil job. They know nothing of what it computes.

A job is a numba function ``job(*args, finish)`` that draws tickets from an atomic counter until
none are left; with ``finish`` it also waits for the last ticket's holder. The caller always works
itself and never waits for a helper to arrive, so a job ends even if none does. Unlike numba's own
thread pools this is safe to call from several Python threads at once, and sleeps between jobs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue


class _Helpers:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: list[SimpleQueue] = []
        self._pid = os.getpid()

    def offer(self, count: int, job: Callable[..., None], args: tuple) -> None:
        if self._pid != os.getpid() or len(self._queues) < count:
            with self._lock:
                if self._pid != os.getpid():  # threads do not survive a fork
                    self._queues, self._pid = [], os.getpid()
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
        job(*args, False)
        del args  # or the last job's arrays would live until the next


_helpers = _Helpers()


def run_job(job: Callable[..., None], args: tuple, workers: int) -> None:
    """Run ``job`` on this thread and up to ``workers - 1`` helpers; returns when it is done."""
    if workers > 1:
        _helpers.offer(workers - 1, job, args)
    job(*args, True)
