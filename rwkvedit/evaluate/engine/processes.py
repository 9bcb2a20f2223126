"""Processes of this machine. One that dies is replaced, and its task begun again.

Workers are spawned, not forked: a fork of a process with threads (torch's, numba's) may hang.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from rwkvedit.errors import RwkvEditError
from rwkvedit.evaluate.engine.base import Cancel, Factory, Task, lost

PATIENCE = 0.2
"""Seconds between two looks at whether Ctrl-C was pressed."""


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: Task | None = None


class Processes:
    """``count`` processes, each with a worker of its own."""

    def __init__(self, factory: Factory, count: int, cancel: Cancel | None = None) -> None:
        self.factory, self.count, self.cancel = factory, count, cancel
        self.context = multiprocessing.get_context("spawn")

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        waiting, deaths, missing = deque(tasks), dict[str, int](), len(tasks)
        workers = [self._start() for _ in range(min(self.count, len(tasks)))]
        try:
            while missing:
                if self.cancel is not None and self.cancel():
                    raise KeyboardInterrupt
                for worker in workers:
                    if worker.task is None and waiting:
                        _give(worker, waiting.popleft())
                ready = wait([w.pipe for w in workers if w.task is not None], PATIENCE)
                for at, worker in enumerate(workers):
                    task = worker.task
                    if worker.pipe not in ready or task is None:
                        continue
                    try:
                        kind, value = worker.pipe.recv()
                    except (EOFError, OSError):
                        deaths[task.key] = deaths.get(task.key, 0) + 1
                        lost(task, deaths[task.key])
                        waiting.appendleft(task)
                        _end(worker)
                        workers[at] = self._start()
                        continue
                    worker.task = None
                    if kind == "error":
                        raise value
                    missing -= 1
                    yield task, value
        finally:
            for worker in workers:
                _end(worker)

    def _start(self) -> _Worker:
        mine, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(self.factory, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, mine)


def _give(worker: _Worker, task: Task) -> None:
    """A worker that is dead already is found so by its pipe, when its answer is waited for."""
    worker.task = task
    with contextlib.suppress(OSError):
        worker.pipe.send(task.job)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.process.close()
    worker.pipe.close()


def _serve(factory: Factory, pipe: Connection) -> None:
    """A worker's life: Ctrl-C is its parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = None
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            work = work or factory()
            pipe.send(("result", work(job)))
        except RwkvEditError as error:
            pipe.send(("error", error))
        except Exception:
            pipe.send(("error", RuntimeError(f"in a worker:\n{traceback.format_exc()}")))
